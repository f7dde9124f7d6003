"""What an answer must look like, however a client says it: OpenAI's way, vLLM's, or llama.cpp's."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

from app.api.openai.bodies import GenerationBody, ResponseFormat, StructuredOutputs
from app.api.openai.errors import refused
from app.errors import RequestError
from app.inference.constraint import Constraint, choice_constraint, grammar_constraint

_USUAL = frozenset({"backend", "_backend", "disable_fallback"})
"""Of structured_outputs: about libraries, not about answers."""

Wanted = tuple[str, Callable[[], Constraint]]
"""The field that says so, and what it says."""


def wanted_form(body: GenerationBody) -> Constraint | None:
    """Raises ApiError that names the field: what it says cannot be followed, or two of them say something."""
    wanted = list(_wanted(body))
    if not wanted:
        return None
    if len(wanted) > 1:
        raise refused(f"{wanted[1][0]}: the answer can have one form only; {wanted[0][0]} is there, too.", wanted[1][0])
    param, make = wanted[0]
    try:
        return make()
    except RequestError as error:
        raise refused(f"{param}: {error}", param) from error


def form_param(body: GenerationBody) -> str | None:
    """The top-level field that says what the answer must look like, if one does. Raises ApiError."""
    first = next(_wanted(body), None)
    return None if first is None else first[0].partition(".")[0]


def _wanted(body: GenerationBody) -> Iterator[Wanted]:
    if body.response_format is not None:
        yield from _of_response_format(body.response_format)
    if body.structured_outputs is not None:
        yield from _of_structured_outputs(body.structured_outputs)
    if body.guided_json is not None:
        yield "guided_json", lambda: _schema(body.guided_json)
    if body.guided_regex is not None:
        yield "guided_regex", lambda: Constraint("regex", body.guided_regex or "")
    if body.guided_choice is not None:
        yield "guided_choice", lambda: choice_constraint(body.guided_choice or [])
    if body.guided_grammar is not None:
        yield "guided_grammar", lambda: grammar_constraint(body.guided_grammar or "")
    if body.grammar:  # an empty one means none to llama.cpp
        yield "grammar", lambda: grammar_constraint(body.grammar or "")
    if body.json_schema is not None:
        yield "json_schema", lambda: _schema(body.json_schema)


def _of_response_format(wanted: ResponseFormat) -> Iterator[Wanted]:
    for name, value in (wanted.model_extra or {}).items():
        if value is not None:
            raise refused(f"response_format.{name} is not supported; leave it out.", f"response_format.{name}")
    if wanted.json_schema is not None and wanted.type != "json_schema":
        sentence = f"response_format.json_schema belongs to the type json_schema, not to {wanted.type}."
        raise refused(sentence, "response_format.json_schema")
    if wanted.schema_ is not None and wanted.type != "json_object":
        sentence = f"response_format.schema belongs to the type json_object, not to {wanted.type}."
        raise refused(sentence, "response_format.schema")
    if wanted.type == "json_object":
        if wanted.schema_ is None:
            yield "response_format", _json_object
        else:
            yield "response_format.schema", lambda: _schema(wanted.schema_)
    elif wanted.type == "json_schema":
        schema = None if wanted.json_schema is None else wanted.json_schema.schema_
        if schema is None:
            raise refused("response_format has no schema.", "response_format.json_schema", "missing_required_parameter")
        yield "response_format.json_schema.schema", lambda: _schema(schema)


def _of_structured_outputs(wanted: StructuredOutputs) -> Iterator[Wanted]:
    for name, value in (wanted.model_extra or {}).items():
        if name not in _USUAL and value not in (None, False):
            raise refused(f"structured_outputs.{name} is not supported; leave it out.", f"structured_outputs.{name}")
    if wanted.json_ is not None:
        yield "structured_outputs.json", lambda: _schema(wanted.json_)
    if wanted.regex is not None:
        yield "structured_outputs.regex", lambda: Constraint("regex", wanted.regex or "")
    if wanted.choice is not None:
        yield "structured_outputs.choice", lambda: choice_constraint(wanted.choice or [])
    if wanted.grammar is not None:
        yield "structured_outputs.grammar", lambda: grammar_constraint(wanted.grammar or "")
    if wanted.json_object:
        yield "structured_outputs.json_object", _json_object


def _json_object() -> Constraint:
    return Constraint("json_object")


def _schema(schema: dict[str, Any] | str | None) -> Constraint:
    return Constraint("json_schema", schema if isinstance(schema, str) else json.dumps(schema))
