"""The JSON Schema of an exported run, made from the types. `docs/schemas/make.py` writes it down."""

from __future__ import annotations

from typing import Any

import msgspec

from app.runs.run import FORMAT, VERSION, Run

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def run_schema() -> dict[str, Any]:
    """Of one line of a JSON Lines export."""
    schema = msgspec.json.schema(Run)
    return {
        "$schema": DIALECT,
        "$id": f"urn:shardboard:run:{VERSION}",
        "title": f"{FORMAT} {VERSION}",
        "description": "One line of a JSON Lines export. Fields may be added within a version; see docs/formats.md.",
        **schema,
    }


def schema_text() -> str:
    """As it stands in the file."""
    return msgspec.json.format(msgspec.json.encode(run_schema()), indent=2).decode() + "\n"
