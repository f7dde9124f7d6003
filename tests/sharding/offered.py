"""Nodes and links as the registry would tell of them, for tests of who gets which layers."""

from __future__ import annotations

from datetime import UTC, datetime

from app.registry import LinkRecord, NodeRecord
from app.sharding.capacity import NodeCapacity
from app.sharding.planning.problem import Offer

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def offer(number: int, free: float = 1e12, read: float | None = 1e9, *, trip: float = 0.0, address: str = "") -> Offer:
    speeds = [{"dtype": "bfloat16", "read_bytes_per_second": read, "flops_per_second": 1e11}] if read else []
    record = NodeRecord(
        number, f"n{number}", address or f"10.0.0.{number}", 7600, f"k{number}", "", True, False, None,
        {"speeds": speeds}, None, NOON, NOON,
    )  # fmt: skip
    return Offer(NodeCapacity(number, f"n{number}", int(free)), record, trip)


def link(source: int, target: int, rtt: float | None) -> LinkRecord:
    outcome = "silent" if rtt is None else "measured"
    return LinkRecord(source * 1000 + target, source, target, outcome, "", rtt, rtt, 0.0, 0.0, 1e8, 1448, NOON)
