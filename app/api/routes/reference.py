"""The reference of all endpoints, made from the OpenAPI document; it works without a network."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.responses import Response

from app.api.rendering import page
from app.api.security import Room

router = Room(include_in_schema=False)

METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Field:
    """A parameter, or a field of a body."""

    name: str
    place: str
    kind: str
    required: bool
    description: str
    default: str


@dataclass(frozen=True)
class Operation:
    """One endpoint."""

    anchor: str
    method: str
    path: str
    summary: str
    description: str
    fields: tuple[Field, ...]
    answers: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Section:
    """The endpoints of one tag."""

    name: str
    operations: tuple[Operation, ...]


@router.get("/docs")
async def reference(request: Request) -> Response:
    document = request.app.openapi()
    return page(request, "reference.html", title=document["info"]["title"], sections=sections(document))


def sections(document: Mapping[str, Any]) -> list[Section]:
    """The endpoints of an OpenAPI document by tag, in the order in which they stand there."""
    found: dict[str, list[Operation]] = {}
    for path, item in document["paths"].items():
        for method in METHODS:
            if method in item:
                operation = item[method]
                tag = next(iter(operation.get("tags", ())), "other")
                found.setdefault(tag, []).append(_operation(path, method, operation, document))
    return [Section(name, tuple(operations)) for name, operations in found.items()]


def _operation(path: str, method: str, operation: Mapping[str, Any], document: Mapping[str, Any]) -> Operation:
    return Operation(
        anchor=operation.get("operationId", f"{method}-{path}"),
        method=method.upper(),
        path=path,
        summary=operation.get("summary", ""),
        description=operation.get("description", ""),
        fields=(*_parameters(operation, document), *_body(operation, document)),
        answers=tuple((code, answer.get("description", "")) for code, answer in operation["responses"].items()),
    )


def _parameters(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Field]:
    for one in operation.get("parameters", ()):
        schema = one.get("schema", {})
        text = one.get("description") or schema.get("description", "")
        yield Field(one["name"], one["in"], _kind(schema, document), one.get("required", False), text, _default(schema))


def _body(operation: Mapping[str, Any], document: Mapping[str, Any]) -> Iterator[Field]:
    content = operation.get("requestBody", {}).get("content", {})
    schema = _resolved(content.get("application/json", {}).get("schema", {}), document)
    for name, one in schema.get("properties", {}).items():
        required = name in schema.get("required", ())
        yield Field(name, "body", _kind(one, document), required, one.get("description", ""), _default(one))


def _resolved(schema: Mapping[str, Any], document: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = schema.get("$ref", "")
    if not reference.startswith("#/components/schemas/"):
        return schema
    found: Mapping[str, Any] = document["components"]["schemas"].get(reference.rpartition("/")[2], {})
    return found


def _default(schema: Mapping[str, Any]) -> str:
    value = schema.get("default")
    return "" if value is None or value == "" else json.dumps(value).strip('"')


def _kind(schema: Mapping[str, Any], document: Mapping[str, Any]) -> str:
    """A schema in a word or two: integer; text or null; list of integer; one of a, b."""
    resolved = _resolved(schema, document)
    if "enum" in resolved:
        return "one of " + ", ".join(str(value) for value in resolved["enum"])
    if "const" in resolved:
        return f"“{resolved['const']}”"
    if "anyOf" in resolved:
        return " or ".join(_kind(one, document) for one in resolved["anyOf"])
    if resolved.get("type") == "array":
        return f"list of {_kind(resolved.get('items', {}), document)}"
    if resolved.get("type") == "object" and "title" in resolved and resolved is not schema:
        return str(resolved["title"])
    return {"string": "text", "null": "null"}.get(str(resolved.get("type", "")), str(resolved.get("type", "any")))
