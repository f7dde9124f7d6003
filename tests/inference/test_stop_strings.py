"""Stop strings against their plain definition, for any division of the text into deltas."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.inference.stop_strings import StopStrings


def plainly(text: str, stops: list[str]) -> tuple[str, str | None]:
    """The definition: the first moment at which the text ends with a stop string, the longest one of them."""
    for end in range(1, len(text) + 1):
        for stop in sorted(stops, key=len, reverse=True):
            if text[:end].endswith(stop):
                return text[: end - len(stop)], stop
    return text, None


LETTERS = st.text("ab\n", max_size=12)


@given(st.lists(LETTERS, max_size=8), st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4))
@example(["aab", "aaa", "b"], ["aaab"])
@example(["ab", "c"], ["bc", "abcd", "abc"])
def test_any_deltas_give_what_the_definition_gives(deltas: list[str], stops: list[str]) -> None:
    stream = StopStrings(stops)
    shown = ""
    for delta in deltas:
        shown += stream.feed(delta)
        assert plainly("".join(deltas), stops)[0].startswith(shown)  # nothing shown is ever taken back
    shown += stream.flush()
    assert (shown, stream.matched) == plainly("".join(deltas), stops)


def test_only_what_may_become_a_stop_string_is_held_back() -> None:
    stream = StopStrings(["\n\nUser:"])
    assert stream.feed("Paris.\n") == "Paris."
    assert stream.feed("\nIt is") == "\n\nIt is"
    assert stream.feed("\n\nUs") == ""
    assert stream.feed("er: more") == ""
    assert stream.matched == "\n\nUser:"
    assert stream.feed("and more") == "" and stream.flush() == ""


def test_without_stop_strings_all_text_passes() -> None:
    stream = StopStrings([])
    assert stream.feed("text") == "text" and stream.matched is None


def test_an_empty_stop_string_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        StopStrings(["a", ""])


PIECES = st.lists(st.tuples(st.text("ab", max_size=4), st.booleans()), max_size=8)


@given(PIECES, st.sampled_from(["a<x>", "<x>", "<x>b", "ab", "<x><x>"]), st.booleans())
def test_hidden_text_counts_for_stop_strings_that_have_a_special_token_in_them(
    pieces: list[tuple[str, bool]], stop: str, included: bool
) -> None:
    """Each piece is some text, and whether a special token <x> follows it."""
    stream = StopStrings([stop], ["<x>"], included=included)
    shown, whole = "", ""
    for text, special in pieces:
        shown += stream.feed(text)
        whole += text
        if special:
            shown += stream.feed("<x>", hidden=True)
            whole += "<x>"
    shown += stream.flush()
    seen = whole if "<x>" in stop else whole.replace("<x>", "")
    before, matched = plainly(seen, [stop])
    assert stream.matched == matched
    assert shown == before.replace("<x>", "") + (stop if included and matched else "")


def test_a_stop_string_that_comes_too_early_is_passed_over() -> None:
    stream = StopStrings(["ab"])
    assert stream.feed("ab", may_stop=False) == "ab"
    assert stream.feed("xab") == "x" and stream.matched == "ab"
