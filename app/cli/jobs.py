"""`job list|show|follow|cancel|retry`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import note, print_json, print_table, print_telling, progress_shown
from app.cli.session import open_controller, open_registry, origin
from app.errors import Cancelled, ShardboardError
from app.figures import ago
from app.registry import JobRecord, JobStatus, Registry
from app.runs.reader import RunReader
from app.runs.telling import tell

app = typer.Typer(no_args_is_help=True)

Number = Annotated[int, typer.Argument(help="Its number.")]


@app.command("list")
def list_jobs(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to leave out.")] = 0,
    status: Annotated[JobStatus | None, typer.Option(help="Only those.")] = None,
    as_json: Json = False,
) -> None:
    """Show jobs, the newest first, whoever began them: the window, a program over HTTP, a command."""
    with open_registry() as registry:
        records = registry.jobs.list(limit=limit, offset=offset, status=status)
    if as_json:
        print_json(records)
        return
    print_table(
        "Jobs",
        ("Id", "Job", "State", "Model", "When", "Error"),
        [(job.id, job.title, job.status.value, job.model_name, ago(job.created_at), job.error) for job in records],
        "There is no such job.",
    )


@app.command("show")
def show_job(id: Number, as_json: Json = False) -> None:
    """Show one job: what it was, and what came of it."""
    with open_registry() as registry:
        _show(registry.jobs.get(id), registry, as_json)


@app.command("follow")
def follow_job(id: Number, as_json: Json = False) -> None:
    """Show how far a job is until it is over. Ctrl-C only looks away; see `job cancel`."""
    with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
        record = session.run(session.controller.follow_job(id, progress.job))
    with open_registry() as registry:
        _show(record, registry, as_json)
    if record.status is JobStatus.CANCELLED:
        raise Cancelled(f"Job {id} was cancelled.")
    if record.status is JobStatus.FAILED:
        raise ShardboardError(f"Job {id} failed.", record.error or "")


@app.command("cancel")
def cancel_job(id: Number, as_json: Json = False) -> None:
    """End a job, whoever began it, and wait until it has cleaned up behind itself."""
    with open_controller(monitor=False) as session:
        record = session.run(session.controller.cancel_job(id))
    if as_json:
        print_json(record)
    elif record.status is JobStatus.CANCELLED:
        note(f"'{record.title}' is cancelled.")
    else:
        note(f"'{record.title}' was over before it could be cancelled: {record.status}.")


@app.command("retry")
def retry_job(id: Number, as_json: Json = False) -> None:
    """Begin a job that failed or was cancelled once more. Returns at once; see `job follow`."""
    with open_controller(monitor=False) as session:
        record = session.run(session.controller.retry_job(id, origin()))
    if as_json:
        print_json(record)
    else:
        note(f"'{record.title}' has begun again; see: job follow {record.id}")


def _show(record: JobRecord, registry: Registry, as_json: bool) -> None:
    if as_json:
        print_json(record)
    else:
        print_telling(tell(RunReader(registry).job(record.id)))
