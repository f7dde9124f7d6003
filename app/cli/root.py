"""Puts the command groups together and turns errors into a sentence and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.cli import (
    demo,
    deployments,
    doctor,
    exporting,
    generation,
    jobs,
    keys,
    models,
    nodes,
    ray,
    replaying,
    requests,
    serve,
    settings,
    sharding,
)
from app.cli.options import Json
from app.cli.output import show_error
from app.errors import BadInput, Cancelled, DiskFullError, ShardboardError
from worker_agent import __version__
from worker_agent.process import interrupt_on_terminate


class ShardboardGroup(TyperGroup):
    """The root of all commands. What the user can act on is shown as a sentence, without a traceback."""

    def invoke(self, ctx: Any) -> Any:  # typer keeps its Context type to itself
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here it can still be told that there is no room for it
            return result
        except KeyboardInterrupt:
            error: ShardboardError = Cancelled("Cancelled.")
        except ShardboardError as raised:
            error = raised
        except OSError as raised:
            error = _explained(raised)
        show_error(error)
        raise typer.Exit(error.exit_code)


def _give_output_up() -> None:
    """What is still to be written to stdout goes nowhere, so that the interpreter does not fail at it once more."""
    try:
        sys.stdout.flush()
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def _explained(error: OSError) -> ShardboardError:
    """What the system refused, where that is nobody's mistake of ours. Raises `error` itself otherwise."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        _give_output_up()
        return DiskFullError(f"The disk is full, so nothing more can be written: {error}.", "Free some space.")
    try:
        Path.cwd()
    except FileNotFoundError:
        return BadInput(
            "The folder that this was started in has been removed, so paths that begin there lead nowhere.",
            "Go to another folder (cd), or give whole paths.",
        )
    raise error


app = typer.Typer(
    name="shardboard",
    cls=ShardboardGroup,
    help="Run a language model that is too big for any one of your machines, over all of them.",
    add_completion=False,
    rich_markup_mode=None,  # plain help: a default such as [0-9] must not be taken for markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
app.add_typer(models.app, name="model", help="Models in the library.")
app.add_typer(nodes.app, name="node", help="Machines with an agent.")
app.add_typer(ray.app, name="ray", help="Agents on the nodes of a Ray cluster.")
app.add_typer(requests.app, name="request", help="Prompts and what came of them.")
app.add_typer(jobs.app, name="job", help="Long work that is under way, and what came of it.")
app.add_typer(keys.app, name="key", help="Keys of the HTTP API.")
app.add_typer(settings.app, name="settings", help="What the controller does on its own.")
sharding.register(app)
deployments.register(app)
generation.register(app)
serve.register(app)
exporting.register(app)
replaying.register(app)
doctor.register(app)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shardboard {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    headless: Annotated[
        bool, typer.Option("--headless", help="Run the demo in the terminal, without a window.")
    ] = False,
    prompt: Annotated[str, typer.Option(help="The demo's prompt.")] = demo.PROMPT,
    agents: Annotated[int, typer.Option(min=1, max=64, help="How many agents the demo starts here.")] = 2,
    model: Annotated[str | None, typer.Option(help="The demo's model: a folder, a Hub id or a GGUF file.")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Let the demo's agents go on afterwards.")] = False,
    as_json: Json = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Without a command: the window. With --headless: the demo, which starts agents here, deploys a small model over
    them and answers a prompt."""
    if context.invoked_subcommand is None and headless:
        demo.run(prompt=prompt, agents=agents, model=model, keep=keep, as_json=as_json)
    elif context.invoked_subcommand is None:
        raise typer.BadParameter("These options are the demo's; start it with --headless.")
    elif headless:
        raise typer.BadParameter(f"--headless is the demo and takes no command ({context.invoked_subcommand}).")


def main(arguments: Sequence[str] | None = None) -> None:
    """The program's entry. Ends the process with the command's exit code."""
    interrupt_on_terminate()
    app(arguments, prog_name="shardboard")
