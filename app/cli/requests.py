"""`request list|show`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.generation import record_json
from app.cli.options import Json
from app.cli.output import print_fields, print_json, print_table
from app.cli.session import open_registry
from app.figures import ago, duration, short, token_rate
from app.inference.parameters import GenerationParameters
from app.registry import RequestStatus

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
    """Show one request: prompt, answer, parameters and timings."""
    with open_registry() as registry:
        record = registry.requests.get(id)
        fields = record_json(record, registry) if as_json else {}
    if as_json:
        print_json(fields)
        return
    print_fields(
        [
            ("Request", record.id),
            ("Model", record.model_name),
            ("Deployment", record.deployment_id),
            ("State", record.status.value),
            ("Created", record.created_at),
            ("Completed", record.completed_at),
            ("Finish", record.finish_reason),
            ("Tokens", f"{record.prompt_tokens} prompt, {record.completion_tokens} answer"),
            ("Parameters", _parameters(record.parameters)),
            ("Timings", _timings(record.timings)),
            ("Error", record.error),
            ("Prompt", record.prompt),
            ("Answer", record.result),
        ]
    )


def _parameters(given: dict[str, object]) -> str:
    """Those that are not the defaults."""
    usual = GenerationParameters().resolved().to_json()
    asked = [f"{name} {value}" for name, value in given.items() if value != usual.get(name)]
    return ", ".join(asked) or "as usual: greedy"


def _timings(timings: dict[str, float]) -> str:
    return ", ".join(
        token_rate(value) if name == "tokens_per_second" else f"{name.replace('_', ' ')} {duration(value)}"
        for name, value in timings.items()
    )
