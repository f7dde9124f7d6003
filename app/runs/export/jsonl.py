"""JSON Lines: one run in each line, all that is known of it; and the JSON Schema of a line, made from the types."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any, BinaryIO

import msgspec

from app.runs.infinities import without_infinities
from app.runs.run import FORMAT, VERSION, Run

DIALECT = "https://json-schema.org/draft/2020-12/schema"


def write_jsonl(runs: Iterable[Run], output: BinaryIO) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    for run in runs:
        output.write(encoder.encode(without_infinities(run)) + b"\n")
        count += 1
    return count


def run_schema() -> dict[str, Any]:
    """The JSON Schema of one line."""
    schema = _unindented(msgspec.json.schema(Run))
    return {
        "$schema": DIALECT,
        "$id": f"urn:shardboard:run:{VERSION}",
        "title": f"{FORMAT} {VERSION}",
        "description": "One line of a JSON Lines export. Fields may be added within a version; see docs/formats.md.",
        **schema,
    }


def _unindented(schema: Any) -> Any:
    """Descriptions are docstrings, which msgspec hands on with their indentation before 0.23, without it since."""
    if isinstance(schema, dict):
        return {
            name: inspect.cleandoc(value) if name == "description" and isinstance(value, str) else _unindented(value)
            for name, value in schema.items()
        }
    return [_unindented(value) for value in schema] if isinstance(schema, list) else schema


def schema_text() -> str:
    """As `docs/schemas/make.py` writes it into a file."""
    return msgspec.json.format(msgspec.json.encode(run_schema()), indent=2).decode() + "\n"
