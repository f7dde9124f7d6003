"""Placements that are loaded, were, or are to be."""

from __future__ import annotations

import secrets
from collections.abc import Collection
from dataclasses import asdict
from datetime import datetime
from typing import TypedDict, Unpack

from peewee import Database

from app.registry.conditions import among, matching, saying, within
from app.registry.records import DeploymentRecord, DeploymentStatus
from app.registry.table import Row, Table
from app.registry.tables import Deployment
from app.serving import Serving


class DeploymentChanges(TypedDict, total=False):
    """What `Deployments.update` can change; the epoch has a way of its own."""

    status: DeploymentStatus
    error: str | None


class Deployments(Table[DeploymentRecord]):
    model = Deployment
    noun = "deployment"
    order = ("created_at", "id")

    def add(
        self,
        *,
        model_name: str,
        plan_hash: str,
        serving: Serving,
        id: str | None = None,
        replica_of: str = "",
        aim: str = "",
        epoch: int = 0,
        status: DeploymentStatus = DeploymentStatus.LOADING,
    ) -> DeploymentRecord:
        """Add a deployment; without an id it gets a fresh one of 8 hexadecimal digits."""
        return self._add(
            {
                "id": id if id is not None else secrets.token_hex(4),
                "model_name": model_name,
                "plan_hash": plan_hash,
                **asdict(serving),
                "replica_of": replica_of,
                "aim": aim,
                "epoch": epoch,
                "status": status,
                "error": None,
            }
        )

    def get(self, id: str) -> DeploymentRecord:
        return self._get(id)

    def list(
        self,
        *,
        model_name: str | None = None,
        status: DeploymentStatus | Collection[DeploymentStatus] | None = None,
        text: str | None = None,
        since: datetime | None = None,
    ) -> list[DeploymentRecord]:
        """Deployments, oldest first. `text` is part of the model's name, the id or the error."""
        return self._list(
            matching(Deployment.model_name, model_name),
            among(Deployment.status, status),
            *within(Deployment.created_at, since, None),
            saying(text, Deployment.model_name, Deployment.id, Deployment.error),
        )

    def update(self, id: str, **changes: Unpack[DeploymentChanges]) -> DeploymentRecord:
        return self._update(id, changes)

    def next_epoch(self, id: str) -> int:
        """Raise the epoch by one and return it. It is on the disk before this returns: no epoch is ever used twice."""

        def work(database: Database) -> int:
            Deployment.update({Deployment.epoch: Deployment.epoch + 1}).where(Deployment.id == id).execute(database)
            return self._by_id(database, id).epoch

        return self._store.write(work)

    def remove(self, id: str) -> DeploymentRecord:
        """Remove a deployment, and with it its shards. Returns what it was."""
        return self._remove(id)

    def fail_interrupted(self, reason: str) -> tuple[str, ...]:
        """Mark deployments whose loading ended with the program as failed; returns their ids.

        Ready ones stay: agents keep what they have loaded.
        """

        def work(database: Database) -> tuple[str, ...]:
            loading = self._select(database, Deployment.status == DeploymentStatus.LOADING)
            for deployment in loading:
                self._change(database, deployment.id, {"status": DeploymentStatus.FAILED, "error": reason})
            return tuple(deployment.id for deployment in loading)

        return self._write(work)

    def _record(self, row: Row) -> DeploymentRecord:
        return DeploymentRecord(**{**row, "status": DeploymentStatus(row["status"])})
