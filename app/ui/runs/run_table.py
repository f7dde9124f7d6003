"""One of the tables of runs: a kind of run, its listing for a filter, and how wide its columns are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from PySide6.QtWidgets import QHeaderView

from app.runs.run import RunKind
from app.ui.paging.listing import Listing
from app.ui.paging.paged_panel import PagedPanel
from app.ui.runs.filter_bar import RunFilter
from app.ui.runs.listings import DeploymentListing, JobListing, RequestListing
from app.ui.runs.run_models import DeploymentModel, JobModel, RequestModel, RunModel
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


@dataclass(frozen=True)
class RunTable:
    """What tells the three tables apart."""

    noun: RunKind
    title: str
    model: type[RunModel]
    listing: Callable[[RunFilter], Listing]
    widest: tuple[str, ...]
    """A long text for each column to be measured by; empty for the one that takes the rest."""
    empty: tuple[str, str, str]
    """Icon, sentence and hint while there are none at all."""


KINDS = (
    RunTable(
        "request", "Requests", RequestModel,
        lambda chosen: RequestListing(chosen.text, chosen.requests, chosen.model_name, chosen.since),
        ("Cancelled____", "SmolLM2-135M-Instruct", "", "2026-12-30 23:59", "00 min 00 s", "Prompt tokens", "Tokens",
         "Tokens/s", "First token"),
        ("message-square", "Nothing has been asked yet.", "Every request appears here with its answer and its times."),
    ),
    RunTable(
        "job", "Jobs", JobModel,
        lambda chosen: JobListing(chosen.text, chosen.jobs, chosen.model_name, chosen.since),
        ("Cancelled____", "Cut into shards__", "", "SmolLM2-135M-Instruct", "2026-12-30 23:59:59", "00 min 00 s"),
        ("briefcase", "No jobs so far.", "Cutting a model into shards and adding models are listed here."),
    ),
    RunTable(
        "deployment", "Deployments", DeploymentModel,
        lambda chosen: DeploymentListing(chosen.text, chosen.deployments, chosen.model_name, chosen.since),
        ("Cancelled____", "", "Deployment", "bfloat16_", "0,000,000", "2026-12-30 23:59:59", "2026-12-30 23:59:59"),
        ("layers", "Nothing was deployed yet.", "Place a model on the board and deploy it."),
    ),
)  # fmt: skip


def make_panel(workbench: Workbench, kind: RunTable) -> PagedPanel:
    """The table of a kind, with columns wide enough for what stands in them."""
    name = "runs-table" if kind.noun == "request" else f"runs-table-{kind.noun}s"
    panel = PagedPanel(workbench, kind.model(workbench), name, kind.title)
    header = panel.view.horizontalHeader()
    metrics = panel.view.fontMetrics()
    for column, text in enumerate(kind.widest):
        if text:
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Interactive)
            header.resizeSection(column, metrics.horizontalAdvance(text) + 3 * SPACING)
        else:
            header.setSectionResizeMode(column, QHeaderView.ResizeMode.Stretch)
    return panel
