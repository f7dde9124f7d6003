"""What an answer has to look like: JSON, JSON of a schema, a regular expression, a grammar.

Checked when it is made, so that a schema that cannot be used is refused before anything runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Literal

import llguidance
from llguidance.gbnf_to_lark import GbnfToLarkError, gbnf_to_lark
from msgspec import Struct

from app.errors import RequestError
from worker_agent.wire.messages import MAX_GRAMMAR_CHARACTERS
from worker_agent.wire.messages import Constraint as WireConstraint

Kind = Literal["json_object", "json_schema", "regex", "lark"]


class Constraint(Struct, frozen=True):
    """`text` is a JSON schema, a regular expression (Rust's, without look-around), or a Lark grammar of llguidance's.

    Raises RequestError that names what is wrong with it.
    """

    kind: Kind
    text: str = ""

    def __post_init__(self) -> None:
        if self.kind == "json_object":
            return
        if len(self.text) > MAX_GRAMMAR_CHARACTERS:
            raise RequestError(
                f"The {_NAMES[self.kind]} has {len(self.text)} characters; {MAX_GRAMMAR_CHARACTERS} are the most.",
                _ADVICE,
            )
        if not self.text.strip():
            raise RequestError(f"The {_NAMES[self.kind]} is empty.", _ADVICE)
        if self.kind == "json_schema":
            _check_json(self.text)
        try:
            problem = llguidance.LLMatcher.validate_grammar(_GRAMMARS[self.kind](self.text))
        except ValueError as error:
            problem = str(error)
        if problem:
            raise RequestError(f"The {_NAMES[self.kind]} cannot be used: {_first_lines(problem)}", _ADVICE)

    def wire(self) -> WireConstraint:
        """As agents are told."""
        return WireConstraint(self.kind, "" if self.kind == "json_object" else self.text)


def grammar_constraint(text: str) -> Constraint:
    """A grammar in llguidance's Lark, or in llama.cpp's GBNF, which is what has `::=` in it. Raises RequestError."""
    if "::=" not in text:
        return Constraint("lark", text)
    if len(text) > MAX_GRAMMAR_CHARACTERS:
        raise RequestError(f"The grammar has {len(text)} characters; {MAX_GRAMMAR_CHARACTERS} are the most.", _ADVICE)
    try:
        converted = gbnf_to_lark(text)
    # its parser says what is wrong in its own error, or falls over it
    except (GbnfToLarkError, ValueError, LookupError, RecursionError) as error:
        raise RequestError(f"The GBNF grammar cannot be read: {_first_lines(str(error))}", _ADVICE) from error
    return Constraint("lark", converted)


def choice_constraint(choices: Sequence[str]) -> Constraint:
    """One of these texts, as it is. Raises RequestError."""
    if not choices or not all(choices):
        raise RequestError(
            "There is nothing to choose from: choices are one or more texts, none of them empty.", _ADVICE
        )
    alternatives = " | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return Constraint("lark", f"start: {alternatives}\n")


def _check_json(text: str) -> None:
    try:
        schema = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The JSON schema is no JSON: {error}.", _ADVICE) from error
    if not isinstance(schema, dict | bool):
        raise RequestError(f"A JSON schema is an object, not {type(schema).__name__}.", _ADVICE)


def _first_lines(problem: str) -> str:
    text = " ".join(line.strip() for line in problem.splitlines()[:6] if line.strip())
    return f"{text[:400].rstrip('.')}."


_ADVICE = "Change it and send the request again."
_NAMES = {"json_object": "constraint", "json_schema": "JSON schema", "regex": "regular expression", "lark": "grammar"}
_GRAMMARS: dict[str, Callable[[str], str]] = {
    "json_schema": llguidance.LLMatcher.grammar_from_json_schema,
    "regex": llguidance.LLMatcher.grammar_from_regex,
    "lark": llguidance.LLMatcher.grammar_from_lark,
}
