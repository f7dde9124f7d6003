"""Arguments that a model writes as bare text, as the types that the tool's JSON schema has for them.

XML-like ways of writing calls have no quotes: `5` may be a number or a text. The schema tells. What fits no type that
it allows stays text, for the tool to judge.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

STRING = frozenset({"string"})
MOST_REFERENCES = 16
"""Of references within a schema that are followed one after another."""
_MISSING = object()


def types_of(name: str, schema: Any) -> frozenset[str]:
    """The JSON types that the argument `name` may have by a tool's schema; none where it says nothing."""
    properties = schema.get("properties") if isinstance(schema, Mapping) else None
    if isinstance(properties, Mapping) and name in properties:
        return _types(properties[name], schema, MOST_REFERENCES)
    further = schema.get("additionalProperties") if isinstance(schema, Mapping) else None
    return _types(further, schema, MOST_REFERENCES)


def value_of(text: str, types: frozenset[str]) -> Any:
    """The value that a text stands for: as the types allow, by JSON or as Python would write it, else the text."""
    value = _literal(text.strip())
    if value is _MISSING or isinstance(value, str):
        return text
    if not types:
        return value
    kind = _type(value)
    if kind in types or (kind == "integer" and "number" in types):
        return value
    if kind == "number" and "integer" in types and value.is_integer():
        return int(value)
    return text


def _types(schema: Any, root: Any, references: int) -> frozenset[str]:
    if not isinstance(schema, Mapping) or not references:
        return frozenset()
    reference, kind = schema.get("$ref"), schema.get("type")
    if isinstance(reference, str):
        return _types(_referred(reference, root), root, references - 1)
    if isinstance(kind, str):
        return frozenset({kind})
    if isinstance(kind, list):
        return frozenset(each for each in kind if isinstance(each, str))
    if "const" in schema:
        return frozenset({_type(schema["const"])})
    if isinstance(schema.get("enum"), list):
        return frozenset(_type(each) for each in schema["enum"])
    for name in ("anyOf", "oneOf", "allOf"):
        if isinstance(schema.get(name), list):
            each = [_types(one, root, references - 1) for one in schema[name]]
            known = [types for types in each if types]
            if name == "allOf":
                return known[0] if known else frozenset()
            return frozenset().union(*each) if len(known) == len(each) else frozenset()
    return frozenset()


def _referred(reference: str, root: Any) -> Any:
    """What a reference within the schema points at (RFC 6901); None where that is nothing."""
    found = root
    for step in reference.removeprefix("#").split("/")[1:]:
        step = step.replace("~1", "/").replace("~0", "~")
        found = found.get(step) if isinstance(found, Mapping) else None
    return found


def _type(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    if isinstance(value, float):
        return "number"
    return "string" if isinstance(value, str) else "array" if isinstance(value, list) else "object"


def _literal(text: str) -> Any:
    """A value that can be written as JSON, or `_MISSING`."""
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        return python_value(text) if text[:1] in tuple("{[TFN") else _MISSING


def python_value(source: str | ast.expr) -> Any:
    """The JSON value of a Python literal, tuples as lists; `true`, `false` and `null` count. Or `_MISSING`."""
    try:
        tree = ast.parse(source, mode="eval").body if isinstance(source, str) else source
        return _from_python(tree)
    except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
        return _MISSING


def is_missing(value: Any) -> bool:
    """Whether `python_value` found none."""
    return value is _MISSING


_NAMES = {"true": True, "false": False, "null": None}


def _from_python(node: ast.expr) -> Any:
    """Raises ValueError."""
    match node:
        case ast.Constant(value=bool() | None | str() | int() as value):
            return value
        case ast.Constant(value=float() as value):
            return _finite(repr(value))
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)) if value is not True:
            return -value
        case ast.Name(id=name) if name in _NAMES:
            return _NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_from_python(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            return {_key(key): _from_python(value) for key, value in zip(keys, values, strict=True)}
    raise ValueError("no literal")


def _key(node: ast.expr | None) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    raise ValueError("no text")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError("JSON has no such number")
    return value


def _refuse(name: str) -> Any:
    raise ValueError(name)
