"""`settings show|set|prune`: what the controller does on its own, window or service."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from app.cli.options import Json
from app.cli.output import note, print_fields, print_json
from app.cli.session import open_controller, origin
from app.control.address import DoorAddress
from app.controller_settings import ControllerSettings
from app.errors import BadInput
from app.paths import Home

app = typer.Typer(no_args_is_help=True)


@app.command("show")
def show_settings(as_json: Json = False) -> None:
    """Show all settings, the defaults included."""
    settings = ControllerSettings.load(Home.find().create().settings)
    if as_json:
        print_json(msgspec.to_builtins(settings))
    else:
        print_fields((name, _shown(value)) for name, value in _flat(settings))


@app.command("set")
def set_settings(
    changes: Annotated[list[str], typer.Argument(help="NAME=VALUE, such as server.port=8000 records.keep_days=30.")],
) -> None:
    """Change settings. A controller that is running keeps its server as it is and follows the rest at once."""
    home = Home.find().create()
    settings = changed(ControllerSettings.load(home.settings), changes)
    if DoorAddress.read(home) is not None:
        with open_controller(home, monitor=False) as session:
            session.run(session.controller.change_settings(settings))
    else:
        settings.save(home.settings)
    note("Saved.")


@app.command("prune")
def prune_records(as_json: Json = False) -> None:
    """Forget now what is older or more than `records.…` allow; a controller does it every six hours by itself."""
    with open_controller(monitor=False) as session:
        pruned = session.run(session.controller.prune(origin()))
    if as_json:
        print_json(pruned)
    else:
        note(f"Forgotten: {pruned}.")


def changed(settings: ControllerSettings, changes: list[str]) -> ControllerSettings:
    """Settings with NAME=VALUE changes. Raises BadInput naming the one that cannot be used."""
    values: dict[str, dict[str, Any]] = msgspec.to_builtins(settings)
    known = dict(_flat(settings))
    for change in changes:
        name, equals, text = change.partition("=")
        name = name.strip()
        if not equals or name not in known:
            raise BadInput(f"'{change}' is no setting.", f"Write NAME=VALUE with one of: {', '.join(known)}.")
        group, _, field = name.partition(".")
        values[group][field] = _value(known[name], text.strip())
        try:
            msgspec.convert(values, ControllerSettings, strict=False)
        except msgspec.ValidationError as error:
            raise BadInput(f"'{change}' cannot be used: {error}.") from error
    return msgspec.convert(values, ControllerSettings, strict=False).checked()


def _value(now: object, text: str) -> object:
    if isinstance(now, tuple):
        return [piece for piece in (each.strip() for each in text.split(",")) if piece]
    words: dict[str, object] = {"yes": True, "on": True, "no": False, "off": False} if isinstance(now, bool) else {}
    return words.get(text.lower(), text)


def _flat(settings: ControllerSettings) -> list[tuple[str, object]]:
    return [
        (f"{group}.{field}", getattr(getattr(settings, group), field))
        for group in settings.__struct_fields__
        for field in getattr(settings, group).__struct_fields__
    ]


def _shown(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
