"""The three tables of runs: what each is a query for, and what is said while it has no rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from app.registry import DeploymentRecord
from app.runs.run import RunKind
from app.ui.paging.listing import Listing, NumberedListing, RowId
from app.ui.paging.paged_panel import PagedPanel
from app.ui.runs.filter_bar import RunFilter
from app.ui.runs.run_models import DeploymentModel, JobModel, RequestModel, RunModel
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.registry import Registry


@dataclass(frozen=True)
class _Narrowed:
    """What the filters leave of the runs of a kind."""

    text: str = ""
    status: frozenset[Any] | None = None
    model_name: str | None = None
    since: datetime | None = None

    def query(self) -> dict[str, Any]:
        return {"text": self.text, "status": self.status, "model_name": self.model_name, "since": self.since}


@dataclass(frozen=True)
class RequestListing(_Narrowed, NumberedListing):
    """Requests; a table of them needs only their lines."""

    @property
    def noun(self) -> str:
        return "request"

    def table(self, registry: Registry) -> Any:
        return registry.requests

    def page(self, registry: Registry, last: int | None, offset: int, limit: int) -> Sequence[Any]:
        return registry.requests.lines(**self.query(), last_id=last, offset=offset, limit=limit)


@dataclass(frozen=True)
class JobListing(_Narrowed, NumberedListing):
    """Jobs."""

    @property
    def noun(self) -> str:
        return "job"

    def table(self, registry: Registry) -> Any:
        return registry.jobs


@dataclass(frozen=True)
class DeploymentListing(_Narrowed):
    """Deployments. There are few of them, and their ids do not tell which is newer: all are read at once."""

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
        return registry.deployments.list(**self.query())[::-1]


@dataclass(frozen=True)
class RunTable:
    """What tells the three tables apart."""

    noun: RunKind
    title: str
    model: type[RunModel]
    listing: Callable[[RunFilter], Listing]
    empty: tuple[str, str, str]
    """Icon, sentence and hint while there are none at all."""


KINDS = (
    RunTable(
        "request", "Requests", RequestModel,
        lambda chosen: RequestListing(chosen.text, chosen.requests, chosen.model_name, chosen.since),
        ("message-square", "Nothing has been asked yet.", "Every request appears here with its answer and its times."),
    ),
    RunTable(
        "job", "Jobs", JobModel,
        lambda chosen: JobListing(chosen.text, chosen.jobs, chosen.model_name, chosen.since),
        ("briefcase", "No jobs so far.", "Cutting a model into shards and adding models are listed here."),
    ),
    RunTable(
        "deployment", "Deployments", DeploymentModel,
        lambda chosen: DeploymentListing(chosen.text, chosen.deployments, chosen.model_name, chosen.since),
        ("layers", "Nothing was deployed yet.", "Place a model on the board and deploy it."),
    ),
)  # fmt: skip


def make_panel(workbench: Workbench, kind: RunTable) -> PagedPanel:
    """The table of a kind."""
    name = "runs-table" if kind.noun == "request" else f"runs-table-{kind.noun}s"
    return PagedPanel(workbench, kind.model(workbench), name, kind.title)
