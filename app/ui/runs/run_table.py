"""One of the tables of runs: a kind of run, its listing for a filter, and what is said while there are none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from app.runs.run import RunKind
from app.ui.paging.listing import Listing
from app.ui.paging.paged_panel import PagedPanel
from app.ui.runs.filter_bar import RunFilter
from app.ui.runs.listings import DeploymentListing, JobListing, RequestListing
from app.ui.runs.run_models import DeploymentModel, JobModel, RequestModel, RunModel
from app.ui.workbench import Workbench


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
