"""`request list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.generation import record_json
from app.cli.options import Json
from app.cli.output import print_json, print_table, print_telling
from app.cli.session import open_registry
from app.figures import ago, short
from app.registry import RequestStatus
from app.runs.reader import RunReader
from app.runs.telling import tell

app = typer.Typer(no_args_is_help=True)

SHOWN_CHARACTERS = 60


@app.command("list")
def list_requests(
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="How many, the newest first.")] = 20,
    offset: Annotated[int, typer.Option(min=0, help="How many of the newest to leave out.")] = 0,
    status: Annotated[RequestStatus | None, typer.Option(help="Only those.")] = None,
    as_json: Json = False,
) -> None:
    """Show requests, the newest first."""
    with open_registry() as registry:
        records = registry.requests.list(limit=limit, offset=offset, status=status)
    if as_json:
        print_json([record_json(record) for record in records])
        return
    print_table(
        "Requests",
        ("Id", "Model", "State", "Prompt", "Tokens", "When"),
        [
            (r.id, r.model_name, r.status, short(r.prompt, SHOWN_CHARACTERS), r.completion_tokens, ago(r.created_at))
            for r in records
        ],
        "There is no such request.",
    )


@app.command("show")
def show_request(id: Annotated[int, typer.Argument(help="Its number.")], as_json: Json = False) -> None:
    """Show one request: what was asked and answered, where its time went, and on which nodes."""
    with open_registry() as registry:
        if as_json:
            print_json(record_json(registry.requests.get(id), registry))
            return
        told = tell(RunReader(registry).request(id))
    print_telling(told)
