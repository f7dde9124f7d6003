"""What reaches a terminal."""

from __future__ import annotations

import pytest

from app.children.work import JobProgress
from app.cli.output import print_fields, print_table, printable, progress_shown, show_error
from app.errors import BadInput


def test_control_characters_never_reach_the_terminal() -> None:
    assert printable("a\x1b]0;title\x07b\r\x9bc\n\td é 你") == "a]0;titlebc\n\td é 你"


def test_texts_of_others_are_not_taken_for_markup(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Models", ("Name",), [("[red]x[/red]",), ("[/]",)], "none")
    show_error(BadInput("[bold]bad[/bold] input.", "See [link]."))
    shown = capsys.readouterr()
    assert "[red]x[/red]" in shown.out and "[/]" in shown.out
    assert shown.err == "[bold]bad[/bold] input.\nSee [link].\n"


def test_long_names_are_folded_in_a_narrow_terminal_and_stay_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "model-with-a-very-long-name-" * 4
    print_table("Models", ("Name", "Layers"), [(name, 30)], "none")
    print_fields([("Folder", name)])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    letters = "".join(character for line in lines for character in line if character.isalpha() or character == "-")
    assert letters.count(name) == 2


def test_an_empty_table_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("Models", ("Name",), [], "There is no model yet.")
    assert capsys.readouterr().out == "There is no model yet.\n"


def test_bars_stay_away_from_pipes(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_shown() as bars:
        bars.job(JobProgress("copying", 5, 10))
        bars.job(JobProgress("copying", 10, 10))
    shown = capsys.readouterr()
    assert shown.out == "" and "copying" not in shown.err
