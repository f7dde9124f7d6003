"""Calls as Python writes them, as Llama 3.2 and 4 like to: `get_weather(city="Paris", days=3)`."""

from __future__ import annotations

import ast
import json

from app.inference.argument_types import is_missing, python_value
from app.inference.call_scanner import CharacterCall

LONGEST = 100_000
"""Characters of one call."""
_CLOSES = {"(": ")", "[": "]", "{": "}"}


class PythonCall(CharacterCall):
    """Reads one call whose arguments are named literals. It is told when it is whole: half of one may be no call."""

    def __init__(self) -> None:
        super().__init__()
        self._source = ""
        self._open: list[str] = []
        self._quote = ""
        self._escaped = False

    def _take(self, character: str) -> None:
        self._source += character
        if self._quote:
            if self._escaped:
                self._escaped = False
            elif character == "\\":
                self._escaped = True
            elif character == self._quote:
                self._quote = ""
        elif character in "\"'":
            self._quote = character
        elif character in _CLOSES:
            self._open.append(_CLOSES[character])
        elif self._open and character == self._open[-1]:
            self._open.pop()
            if not self._open:
                self._read()
        elif character in ")]}":
            self.is_broken = True
        self.is_broken = self.is_broken or len(self._source) > LONGEST

    def _read(self) -> None:
        try:
            call = ast.parse(self._source.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError):
            self.is_broken = True
            return
        if not isinstance(call, ast.Call) or call.args:
            self.is_broken = True
            return
        values = {keyword.arg: python_value(keyword.value) for keyword in call.keywords}
        if None in values or any(map(is_missing, values.values())):
            self.is_broken = True
            return
        self.name = ast.unparse(call.func)
        self._arguments = json.dumps(values, ensure_ascii=False)
        self.is_done = True
