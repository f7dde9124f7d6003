"""What the tables of runs are queries for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.registry import DeploymentRecord, DeploymentStatus, JobStatus, RequestStatus
from app.ui.paging.listing import NumberedListing, RowId

if TYPE_CHECKING:
    from app.registry import Registry


@dataclass(frozen=True)
class RequestListing(NumberedListing):
    """Requests; a table of them needs only their lines."""

    text: str = ""
    status: frozenset[RequestStatus] | None = None
    model_name: str | None = None
    since: datetime | None = None

    @property
    def noun(self) -> str:
        return "request"

    def table(self, registry: Registry) -> Any:
        return registry.requests

    def query(self) -> dict[str, Any]:
        return {"text": self.text, "status": self.status, "model_name": self.model_name, "since": self.since}

    def page(self, registry: Registry, last: int | None, offset: int, limit: int) -> Sequence[Any]:
        return registry.requests.lines(
            text=self.text, status=self.status, model_name=self.model_name, since=self.since, last_id=last,
            offset=offset, limit=limit,
        )  # fmt: skip


@dataclass(frozen=True)
class JobListing(NumberedListing):
    """Jobs."""

    text: str = ""
    status: frozenset[JobStatus] | None = None
    model_name: str | None = None
    since: datetime | None = None

    @property
    def noun(self) -> str:
        return "job"

    def table(self, registry: Registry) -> Any:
        return registry.jobs

    def query(self) -> dict[str, Any]:
        return {"text": self.text, "status": self.status, "model_name": self.model_name, "since": self.since}


@dataclass(frozen=True)
class DeploymentListing:
    """Deployments. There are few of them, and their ids do not tell which is newer: all are read at once."""

    text: str = ""
    status: frozenset[DeploymentStatus] | None = None
    model_name: str | None = None
    since: datetime | None = None

    @property
    def noun(self) -> str:
        return "deployment"

    def newest(self, registry: Registry) -> int | None:
        return None

    def count(self, registry: Registry, after: int | None, last: int | None) -> int:
        return len(self._all(registry))

    def position(self, registry: Registry, id: RowId, last: int | None) -> int | None:
        return next((row for row, record in enumerate(self._all(registry)) if record.id == id), None)

    def page(self, registry: Registry, last: int | None, offset: int, limit: int) -> Sequence[Any]:
        return self._all(registry)[offset : offset + limit]

    def _all(self, registry: Registry) -> list[DeploymentRecord]:
        found = registry.deployments.list(
            text=self.text, status=self.status, model_name=self.model_name, since=self.since
        )
        return found[::-1]
