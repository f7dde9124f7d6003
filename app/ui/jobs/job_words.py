"""What the window says of a job: the line under its title, its tooltip, the summary of all of them."""

from __future__ import annotations

from collections.abc import Iterable

from app.jobs.job import JobSnapshot
from app.progress import figures_words, phase_words, progress_words
from app.registry.records import JobStatus
from app.runs.telling import state_word, tell
from app.ui.notices import further_details

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
    "invite": "plus",
}


def phase_text(view: JobSnapshot) -> str:
    """Copying; Cancelling; Waiting."""
    if view.status is JobStatus.RUNNING:
        if view.is_ending:
            return "Cancelling"
        return phase_words(view.phase) or "Running"
    return state_word(view.status)


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
    """All that is known of a job, as text to copy: as its run is told everywhere, and how far it is."""
    parts = [tell(view.run).as_text()]
    if figures_text(view):
        parts.append(progress_words(view.progress))
    if view.result:
        parts.append(view.result)
    if view.error is not None:
        parts.append(further_details(view.error))  # its sentences are in the run's telling
    return "\n\n".join(parts)


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
