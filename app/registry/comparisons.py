"""What was predicted of each stage of a request beside what was measured: the last few of each node in each kind of
numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from concurrent.futures import Future
from dataclasses import asdict

from peewee import Database

from app.registry.fields import now
from app.registry.records import ComparisonRecord, NewComparison
from app.registry.table import Row, Table
from app.registry.tables import StageComparison, WorkerNode

KEPT = 20
"""Of one node, compute dtype and quantization; older ones go when a new one comes."""


class Comparisons(Table[ComparisonRecord]):
    model = StageComparison
    noun = "comparison"
    order = ("-created_at", "-id")

    def keep(self, comparisons: Sequence[NewComparison]) -> Future[None]:
        """Keep those of one request without waiting for the disk. Of nodes that are gone nothing is kept."""

        def work(database: Database) -> None:
            asked = {each for one in comparisons for each in (one.node_id, one.following_id) if each is not None}
            query = WorkerNode.select(WorkerNode.id).where(WorkerNode.id.in_(asked)).tuples()
            there = {None, *(id for (id,) in query.execute(database))}
            for each in comparisons:
                if each.node_id in there and each.following_id in there:
                    values = asdict(each)
                    values["node"], values["following"] = values.pop("node_id"), values.pop("following_id")
                    StageComparison.insert({**values, "created_at": now()}).execute(database)
                    self._trim(database, each)

        return self._store.write_later(work, self.noun)

    def list(
        self, nodes: Collection[int] | None = None, *, dtype: str | None = None, quantize: str | None = None
    ) -> list[ComparisonRecord]:
        """The newest first: of these nodes and in these numbers, where they are named, or all that is kept."""
        return self._list(
            None if nodes is None else StageComparison.node.in_(tuple(nodes)),
            None if dtype is None else StageComparison.dtype == dtype,
            None if quantize is None else StageComparison.quantize == quantize,
        )

    def _trim(self, database: Database, of: NewComparison) -> None:
        alike = (
            (StageComparison.node == of.node_id)
            & (StageComparison.dtype == of.dtype)
            & (StageComparison.quantize == of.quantize)
        )
        newest = StageComparison.select(StageComparison.id).where(alike).order_by(StageComparison.id.desc())
        old = [id for (id,) in newest.offset(KEPT).limit(KEPT).tuples().execute(database)]
        if old:
            self._delete(database, StageComparison.id.in_(old))

    def _record(self, row: Row) -> ComparisonRecord:
        values = dict(row)
        return ComparisonRecord(node_id=values.pop("node"), following_id=values.pop("following"), **values)
