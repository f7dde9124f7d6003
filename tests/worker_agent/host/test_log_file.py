"""The end of an agent's log, as it is sent to a controller."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from worker_agent.host.log_file import OneLine, read_tail


@pytest.mark.parametrize(
    ("max_bytes", "expected"), [(100, b"one\ntwo\nthree\n"), (14, b"one\ntwo\nthree\n"), (13, b"two\nthree\n"),
                                (10, b"two\nthree\n"), (9, b"three\n"), (4, b"ree\n")]
)  # fmt: skip
def test_only_whole_lines_unless_one_alone_is_too_long(tmp_path: Path, max_bytes: int, expected: bytes) -> None:
    log = tmp_path / "agent.log"
    log.write_bytes(b"one\ntwo\nthree\n")
    assert read_tail(log, max_bytes) == expected


def test_a_log_that_was_just_begun_anew_is_filled_up_from_the_one_before(tmp_path: Path) -> None:
    log = tmp_path / "agent.log"
    assert read_tail(log, 10) == b""
    (tmp_path / "agent.log.1").write_bytes(b"first\nsecond\n")
    assert read_tail(log, 10) == b"second\n"
    log.write_bytes(b"third\n")
    assert read_tail(log, 13) == b"second\nthird\n"


def test_what_a_peer_sent_neither_ends_a_line_nor_moves_the_cursor() -> None:
    record = logging.LogRecord("a", logging.WARNING, "", 0, "no such type '%s'", ("x\x0b\x1b[2J\u2028\r\ny",), None)
    line = OneLine().format(record)
    assert line.splitlines() == [line] and line.isprintable()
    assert "no such type 'x ⏎ \\x1b[2J" in line and line.endswith("y'")
