"""What was measured of the links between nodes: the last few measurements of each direction."""

from __future__ import annotations

from peewee import Database, Expression

from app.registry.records import LinkRecord
from app.registry.table import Row, Table
from app.registry.tables import NodeLink

KEPT = 10
"""Measurements of one direction; older ones go when a new one comes."""


class Links(Table[LinkRecord]):
    model = NodeLink
    noun = "link"
    order = ("-created_at", "-id")

    def add(
        self,
        source_id: int,
        target_id: int,
        *,
        outcome: str,
        detail: str = "",
        rtt: float | None = None,
        least_rtt: float | None = None,
        jitter: float | None = None,
        clock_offset: float | None = None,
        bytes_per_second: float | None = None,
        segment_bytes: int | None = None,
    ) -> LinkRecord:
        """Keep what was found of a link just now; see LinkRecord. Raises RegistryError when a node is gone."""
        values = {
            "source": source_id,
            "target": target_id,
            "outcome": outcome,
            "detail": detail,
            "rtt": rtt,
            "least_rtt": least_rtt,
            "jitter": jitter,
            "clock_offset": clock_offset,
            "bytes_per_second": bytes_per_second,
            "segment_bytes": segment_bytes,
        }

        def work(database: Database) -> LinkRecord:
            record = self._insert(database, values)
            old = [each.id for each in self._select(database, _between(source_id, target_id))][KEPT:]
            if old:
                self._delete(database, NodeLink.id.in_(old))
            return record

        return self._write(work)

    def list(self) -> list[LinkRecord]:
        """All that is kept, the newest first."""
        return self._list()

    def _record(self, row: Row) -> LinkRecord:
        values = dict(row)
        return LinkRecord(source_id=values.pop("source"), target_id=values.pop("target"), **values)


def _between(source_id: int, target_id: int) -> Expression:
    return (NodeLink.source == source_id) & (NodeLink.target == target_id)
