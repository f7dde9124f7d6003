"""`key add|list|remove`: who may call the HTTP API."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.options import Json
from app.cli.output import note, print_json, print_table
from app.cli.session import open_registry
from app.figures import ago

app = typer.Typer(no_args_is_help=True)
Name = Annotated[str, typer.Argument(help="Who or what uses the key: laptop, grafana, …")]


@app.command("add")
def add_key(name: Name, as_json: Json = False) -> None:
    """Make an API key. It is shown once and kept only as a hash."""
    from app.api.keys import make_key

    with open_registry() as registry:
        key = make_key(registry, name)
    if as_json:
        print_json({"name": name, "key": key})
        return
    typer.echo(key)
    note("Keep it: it is not shown again. Send it as 'Authorization: Bearer KEY'.")


@app.command("list")
def list_keys(as_json: Json = False) -> None:
    """Show the keys by name, and when they were used last."""
    with open_registry() as registry:
        keys = registry.api_keys.list()
    if as_json:
        print_json([{"name": k.name, "ends_in": k.hint, "created": k.created_at, "used": k.last_used_at} for k in keys])
        return
    print_table(
        "API keys",
        ("Name", "Ends in", "Made", "Last used"),
        [(k.name, k.hint, ago(k.created_at), ago(k.last_used_at)) for k in keys],
        "There is no API key; make one with: key add NAME",
    )


@app.command("remove")
def remove_key(name: Name) -> None:
    """Forget a key: from now on it opens nothing."""
    with open_registry() as registry:
        registry.api_keys.remove(name)
    note(f"The key '{name}' opens nothing any more.")
