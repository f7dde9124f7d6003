"""`bundle` and `replay`: what happened to a request as one file, and the same request run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import note, print_fields, print_json, progress_shown, show_error
from app.cli.session import open_controller, origin
from app.control.incidents import incident_bundle, replay_bundle
from app.errors import Cancelled, ShardboardError
from app.figures import size_text
from app.incident.bundle import Bundle, save_bundle
from app.incident.comparison import Comparison, TokenAt

SAME, DIFFERENT, NOT_COMPARED = 0, 1, 2
"""The exit codes of `replay`, as those of diff."""


def register(app: typer.Typer) -> None:
    app.command()(bundle)
    app.command()(replay)


def bundle(
    request: Annotated[int, typer.Argument(help="The request's number; see: request list.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Where to write it. [default: incident-NUMBER.zip]")
    ] = None,
) -> None:
    """Write all that is known of a request into one zip: plan, versions, events, logs, prompt and tokens."""
    path = output or Path(f"incident-{request}.zip")
    with open_controller() as session:
        data = session.ask(incident_bundle, request)
    save_bundle(data, path)
    note(f"{path}: {size_text(len(data))}. It holds the prompt and the answer, unless the settings keep none.")


def replay(
    bundle: Annotated[Path, typer.Argument(help="A zip that `bundle` wrote.")],
    model: Annotated[
        str | None, typer.Option(help="A name in the library. [default: the model with the same weights]")
    ] = None,
    deploy: Annotated[
        bool,
        typer.Option("--deploy", help="Put the layers where they were, on the nodes at hand, for the replay."),
    ] = False,
    faults: Annotated[
        bool,
        typer.Option(
            "--faults",
            help="Have the same layers be lost, or handed over, at the same tokens. Ends agents of this machine, and "
            "starts them again; whatever else they answer pauses.",
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Run a bundle's request again and compare token by token.

    Exit code 0: the same tokens; 1: other tokens; 2: it could not be compared.
    """
    try:
        opened = Bundle.open(bundle)
        opened.check_replayable()
        with open_controller() as session, progress_shown(as_json) as bars:
            found = session.ask(
                replay_bundle, bundle.read_bytes(), model=model, deploy=deploy, with_faults=faults,
                on_progress=bars.job, origin=origin(),
            )  # fmt: skip
    except Cancelled:
        raise
    except ShardboardError as error:
        show_error(error)
        raise typer.Exit(NOT_COMPARED) from None
    if as_json:
        print_json(found)
    else:
        show_comparison(found)
    raise typer.Exit(SAME if found.same else DIFFERENT)


def show_comparison(found: Comparison) -> None:
    """The verdict first, then what a reader needs to judge it."""
    rows: list[tuple[str, str | int | None]] = [
        ("Verdict", _verdict(found)),
        ("Promised", found.promise_text),
        ("Model", found.model),
        ("Ran as", f"request {found.replay_request} on deployment {found.deployment}"),
    ]
    if (difference := found.difference) is not None:
        rows += [
            ("After", repr(difference.before) if difference.before else "nothing: it is the first token"),
            ("Expected", _token(difference.expected)),
            ("Got", _token(difference.got)),
        ]
    if found.largest_logprob_difference is not None:
        rows.append(("Log probabilities", f"apart by {found.largest_logprob_difference:.2g} at most"))
    rows += [("Interrupted then" if index == 0 else "", text) for index, text in enumerate(found.interruptions_then)]
    rows += [("Interrupted now" if index == 0 else "", text) for index, text in enumerate(found.interruptions_now)]
    rows += [("Otherwise then" if index == 0 else "", text) for index, text in enumerate(_otherwise(found))]
    print_fields(rows)


def _verdict(found: Comparison) -> str:
    if found.same:
        return f"the same: all {found.compared} tokens"
    return f"different from token {found.first_difference} on (counted from 0), of {len(found.expected)}"


def _otherwise(found: Comparison) -> tuple[str, ...]:
    return found.differences_of_conditions or ("nothing that was recorded",)


def _token(at: TokenAt) -> str:
    if at.token is None:
        return "the end of the answer"
    likely = [
        f"{logprob:.4f} {when}"
        for logprob, when in ((at.logprob_then, "then"), (at.logprob_now, "now"))
        if logprob is not None
    ]
    text = f" {at.text!r}" if at.text else ""
    return f"{at.token}{text}" + (f", log probability {' and '.join(likely)}" if likely else "")
