"""One call of a tool, read while a model writes it. Here the commonest way: `{"name": …, "arguments": {…}}`."""

from __future__ import annotations

import json
from abc import abstractmethod
from typing import Protocol

ARGUMENTS = ("arguments", "parameters")


class CallScanner(Protocol):
    """Reads one call. What it has taken and does not belong to the call is `leftover` in the end."""

    @property
    def name(self) -> str | None:
        """The tool's, as soon as it is certain; the call may be told from then on."""
        ...

    @property
    def is_done(self) -> bool:
        """The call is complete."""
        ...

    @property
    def is_broken(self) -> bool:
        """It is no call, or does not go on as one."""
        ...

    @property
    def leftover(self) -> str: ...

    def feed(self, text: str) -> int:
        """Take text; how many of its characters were looked at."""
        ...

    def take_arguments(self) -> str:
        """The JSON text of the arguments that has come since this was called last."""
        ...

    def finish(self) -> None:
        """The answer ends here: what was held back is given, and closed if nothing else is missing."""
        ...


class CharacterCall:
    """What scanners share that look at a call character by character, and take none that does not belong to it."""

    def __init__(self, name: str | None = None) -> None:
        self.name = name
        self.is_done = False
        """The call is closed."""
        self.is_broken = False
        """It is no such call."""
        self._arguments = ""
        """What `take_arguments` has not given yet."""

    @property
    def leftover(self) -> str:
        """Nothing: no character is taken that does not belong to the call."""
        return ""

    def finish(self) -> None:
        """A call that was cut short stays as it is."""

    def feed(self, text: str) -> int:
        """Take text up to the end of the call; how many characters that are."""
        for index, character in enumerate(text):
            if self.is_done or self.is_broken:
                return index
            self._take(character)
        return len(text)

    def take_arguments(self) -> str:
        """The text of the arguments that has come since this was called last."""
        arguments, self._arguments = self._arguments, ""
        return arguments

    @abstractmethod
    def _take(self, character: str) -> None:
        """Look at the next character."""


class JsonCall(CharacterCall):
    """Tells the name as soon as it is there, and the text of the arguments as it comes, character by character.

    Args:
        name: given when it stood before the object, which then is the arguments.
    """

    def __init__(self, name: str = "") -> None:
        super().__init__(name or None)
        self._is_all_arguments = bool(name)
        self._has_arguments = False
        self._depth = 0
        self._in_string = self._escaped = False
        self._literal = ""
        """The string that is being read or was read last, with its quotes."""
        self._key: str | None = None
        """Whose value is being read; None while a key is."""
        self._value = ""
        self._value_is_whole = False

    def _take(self, character: str) -> None:
        if self._depth == 0 and character != "{":
            self.is_broken = not character.isspace()
            return
        if self._in_string:
            self._take_in_string(character)
        elif character == '"':
            self._in_string, self._literal = True, character
        elif character in "{[":
            self._depth += 1
        elif character in "}]":
            self._depth -= 1
            self.is_done = self._depth == 0
        elif self._depth == 1 and character == ":" and self._key is None and not self._is_all_arguments:
            self._key, self._value, self._value_is_whole = self._text(self._literal), "", False
            return
        if self._is_all_arguments:
            self._arguments, self._has_arguments = self._arguments + character, True
        elif self._depth == 0 or (self._depth == 1 and character == "," and not self._in_string):
            self._end_value()
        elif self._key in ARGUMENTS and not self._value_is_whole:
            self._take_argument(character)

    def _take_in_string(self, character: str) -> None:
        self._literal += character
        if self._escaped:
            self._escaped = False
        elif character == "\\":
            self._escaped = True
        elif character == '"':
            self._in_string = False
            if self._depth == 1 and self._key == "name":
                self.name = self._text(self._literal) or None

    def _take_argument(self, character: str) -> None:
        if not self._value and character.isspace():
            return
        self._value += character
        if self._value[0] in "{[":
            self._arguments, self._has_arguments = self._arguments + character, True
            self._value_is_whole = self._depth == 1

    def _end_value(self) -> None:
        """The value of a key is complete. Arguments may be a string that holds the JSON, or null."""
        if self._key in ARGUMENTS and not self._has_arguments:
            value = self._value.strip()
            if value.startswith('"'):
                self._arguments = self._text(value)
            elif value not in ("", "null"):
                self._arguments = value
            self._has_arguments = bool(self._arguments)
        if self.is_done and not self._has_arguments:
            self._arguments = "{}"
        self._key = None

    def _text(self, literal: str) -> str:
        try:
            value = json.loads(literal)
        except ValueError:
            self.is_broken = True
            return ""
        return value if isinstance(value, str) else ""
