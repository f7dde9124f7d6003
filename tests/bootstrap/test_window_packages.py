"""What Linux needs for a window: found, installed as root on Debian, else named; never in the way of the terminal."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap import window_packages
from bootstrap.faults import SetupError
from bootstrap.machine import Machine
from bootstrap.window_packages import (
    DRAWING,
    SCREEN,
    Needed,
    has_display,
    missing,
    needed_for_window,
    opens_window,
    provide_for_tests,
    provide_for_window,
)

ROOT = Path(__file__).parent.parent.parent
LIBRARY = Needed("libnobody-has-this.so.7", "libnobody7")
PROGRAM = Needed("nobody-has-this", "nobody")


def machine(*, debian: bool = True, root: bool = False, system: str = "Linux") -> Machine:
    return Machine(system=system, nvidia=False, debian=debian, root=root)


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Linux machine with X11 that lacks a library and a program."""
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.delenv("QT_QPA_PLATFORM", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.setattr(window_packages, "DRAWING", ())
    monkeypatch.setattr(window_packages, "SCREEN", (LIBRARY,))
    monkeypatch.setattr(window_packages, "TEST_PROGRAMS", (PROGRAM,))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sonames are Linux's")
def test_a_library_is_found_by_loading_it_and_a_program_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    libc = Needed("libc.so.6", "libc6")
    assert missing((libc, LIBRARY, PROGRAM)) == (LIBRARY, PROGRAM)
    (tmp_path / PROGRAM.name).write_text("#!/bin/sh\n")
    (tmp_path / PROGRAM.name).chmod(0o755)
    assert missing((PROGRAM,)) == ()


def test_only_run_without_arguments_opens_the_window() -> None:
    assert opens_window([])
    for arguments in (["--headless"], ["model", "list"], ["--version"], ["node", "add", "x"]):
        assert not opens_window(arguments)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"DISPLAY": ":0"}, DRAWING + SCREEN),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, DRAWING),
        ({"QT_QPA_PLATFORM": "offscreen"}, DRAWING),
        ({"QT_QPA_PLATFORM": "xcb", "DISPLAY": ":0"}, DRAWING + SCREEN),
    ],
)
def test_x11s_libraries_are_wanted_only_where_x11_is_asked(
    environment: dict[str, str], expected: tuple[Needed, ...]
) -> None:
    assert needed_for_window(environment) == expected


def test_only_linux_can_be_without_a_display() -> None:
    assert has_display("Darwin", {}) and has_display("Windows", {})
    assert not has_display("Linux", {"DISPLAY": ""})
    assert has_display("Linux", {"WAYLAND_DISPLAY": "wayland-0"})


@pytest.mark.usefixtures("lacking")
def test_without_root_the_window_says_what_is_missing_and_how_to_get_it() -> None:
    with pytest.raises(SetupError) as refused:
        provide_for_window("Linux", machine)
    assert LIBRARY.name in refused.value.message
    assert f"sudo apt-get install {LIBRARY.package}" in refused.value.advice and "--headless" in refused.value.advice


@pytest.mark.usefixtures("lacking")
def test_other_systems_need_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    provide_for_window("Darwin", machine)
    provide_for_tests(machine(system="Windows"))
    assert capsys.readouterr() == ("", "")


@pytest.mark.usefixtures("lacking")
def test_elsewhere_than_on_debian_apt_is_not_mentioned(capsys: pytest.CaptureFixture[str]) -> None:
    provide_for_tests(machine(debian=False))
    said = capsys.readouterr()
    text = said.out + said.err
    assert LIBRARY.name in text and PROGRAM.name in text and "apt-get" not in text


@pytest.mark.usefixtures("lacking")
def test_root_on_debian_gets_all_that_is_missing_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """apt-get stands in: it notes how it is called, and brings the program."""
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncp "$0" {tmp_path}/{PROGRAM.name}\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(window_packages, "SCREEN", (PROGRAM,))
    provide_for_window("Linux", lambda: machine(root=True))
    provide_for_tests(machine(root=True))
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["update -q", f"install -q -y --no-install-recommends {PROGRAM.package}"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="others always have a display")
def test_run_without_a_display_names_the_terminal_before_it_sets_anything_up(machine_folder: Path) -> None:
    kept = {
        name: value for name, value in os.environ.items()
        if name not in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, str(machine_folder / "bootstrap"), "run"],
        env=kept, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "no display" in done.stderr and "./run --headless" in done.stderr
    assert not (machine_folder / ".venv").exists()
