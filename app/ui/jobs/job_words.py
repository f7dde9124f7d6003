"""What the window says of a job: the line under its title, its tooltip, the summary of all of them."""

from __future__ import annotations

from collections.abc import Iterable

from app.figures import clock, duration
from app.jobs.job import JobSnapshot
from app.progress import figures_words, phase_words, progress_words
from app.registry.records import JobStatus
from app.ui.notices import details_of

KIND_ICONS = {
    "cut": "scissors",
    "add": "package",
    "demo": "sparkles",
    "deploy": "rocket",
    "measure": "gauge",
    "links": "network",
    "local": "rocket",
    "ssh": "terminal",
    "ray": "server",
    "update": "refresh-cw",
}
STATE_WORDS = {
    JobStatus.QUEUED: "Waiting for its turn",
    JobStatus.RUNNING: "Running",
    JobStatus.DONE: "Done",
    JobStatus.FAILED: "Failed",
    JobStatus.CANCELLED: "Cancelled",
}
WAYS = {"http": "over HTTP", "command": "by a command"}
"""How others than this window ask for a job."""


def phase_text(view: JobSnapshot) -> str:
    """Copying; Cancelling, cleaning up; Waiting for its turn."""
    if view.status is JobStatus.RUNNING:
        if view.is_ending:
            return "Cancelling"
        return phase_words(view.phase) or "Running"
    return STATE_WORDS[view.status]


def figures_text(view: JobSnapshot) -> str:
    """1.2 of 4 GB · 120 MB/s · 25 s left; 512 of 2,704 tokens; empty when there are no figures."""
    if view.status is not JobStatus.RUNNING or view.is_ending:
        return ""
    return " · ".join(figures_words(view.progress))


def outcome_text(view: JobSnapshot) -> str:
    """What came of it, or why it failed."""
    if view.error is not None:
        return str(view.error)
    return view.result


def spoken_text(view: JobSnapshot) -> str:
    """All of a row for who cannot see it."""
    percent = f"{view.fraction:.0%}" if view.fraction is not None and view.status is JobStatus.RUNNING else ""
    pieces = [view.title, phase_text(view), percent, figures_text(view), outcome_text(view)]
    return ", ".join(piece.rstrip(".") for piece in pieces if piece)


def details_text(view: JobSnapshot) -> str:
    """All that is known of a job, as text to copy."""
    lines = [view.title, f"state: {STATE_WORDS[view.status].lower()}"]
    if view.origin.via in WAYS:
        lines.append(f"asked for: {WAYS[view.origin.via]}" + (f" by {view.origin.user}" if view.origin.user else ""))
    if view.started_at is not None:
        lines.append(f"started: {clock(view.started_at)}")
    if view.ended_at is not None:
        lines.append(f"ended: {clock(view.ended_at)}")
        if view.started_at is not None:
            lines.append(f"took: {duration((view.ended_at - view.started_at).total_seconds())}")
    if figures_text(view):
        lines.append(f"progress: {progress_words(view.progress)}")
    if view.result:
        lines.append(f"result: {view.result}")
    if view.error is not None:
        lines += details_of(view.title, view.error).splitlines()[1:]
    return "\n".join(lines)


def summary_text(views: Iterable[JobSnapshot]) -> str:
    """For the status bar: 2 jobs, 40 %; empty when nothing is under way."""
    busy = [view for view in views if not view.status.is_over]
    if not busy:
        return ""
    noun = "1 job" if len(busy) == 1 else f"{len(busy)} jobs"
    known = [view for view in busy if view.total_bytes > 0]
    if not known:
        return noun
    done, total = sum(view.done_bytes for view in known), sum(view.total_bytes for view in known)
    return f"{noun}, {min(100, 100 * done // total)} %"
