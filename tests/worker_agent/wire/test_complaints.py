"""Warnings about what others send fill no log, whatever they send."""

from __future__ import annotations

import logging

import pytest

from worker_agent.wire import complaints
from worker_agent.wire.complaints import MOST_REASONS, Complaints


def test_a_reason_is_told_once_in_a_while_and_many_reasons_are_counted(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Complaints(logging.getLogger("complaints"))
    for _ in range(3):
        told.warn("the same")
    for number in range(5 * MOST_REASONS):
        told.warn(f"key {number}")
    assert len(caplog.messages) == MOST_REASONS and caplog.messages[:2] == ["the same", "key 0"]
    monkeypatch.setattr(complaints, "AGAIN_SECONDS", 0.0)  # the time has passed
    told.warn("the same")
    assert caplog.messages[-1] == f"the same (and {4 * MOST_REASONS + 1} other warnings were left out)"
