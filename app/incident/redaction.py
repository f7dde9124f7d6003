"""Takes out of logs and messages what is nobody's business elsewhere: secrets, and paths that name a user.

A bundle is made to be handed on. The prompt and the answer stay as they are, for they are what is to be replayed; all
else goes through here. Known secrets are taken out by their text, others by what they look like.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.paths import Home

SECRET = "<secret>"

_SHAPES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\b(?:sb|sk|hf|gh[pousr])[-_][A-Za-z0-9_-]{16,}"), SECRET),
    (re.compile(r"(?i)\b((?:bearer|basic)\s+)[A-Za-z0-9+/._~=-]{8,}"), rf"\1{SECRET}"),
    (re.compile(r"(://)[^\s/@:]*:[^\s/@]+@"), rf"\1{SECRET}@"),
    (
        re.compile(r"(?i)\b((?:api[_-]?key|access[_-]?token|token|password|passwd|secret)[\"']?\s?[=:]\s?[\"']?)"
                   r"[^\s\"',;&]{8,}"),
        rf"\1{SECRET}",
    ),
    (re.compile(r"(?:/home|/Users)/[^/\s:'\"]+|(?<![\w/])/root(?=[/\s:'\"]|$)"), "~"),
    (re.compile(r"(?i)\b[a-z]:(\\{1,2})Users\1[^\\\s:'\"]+"), "~"),
)  # fmt: skip


class Redaction:
    """Makes clean copies.

    Args:
        known: text that is taken out wherever it stands -> what is put in its place.
    """

    def __init__(self, known: Mapping[str, str]) -> None:
        self._known = sorted(((text, shown) for text, shown in known.items() if text), key=lambda one: -len(one[0]))

    @classmethod
    def of(cls, home: Home, *secrets: str) -> Redaction:
        """For what a controller of this home wrote."""
        known = {str(home.models): "<models>", str(home.root): "<home>", str(Path.home()): "~"}
        # On a machine whose user has no home of their own, that is the root of all paths.
        known.pop(Path.home().anchor, None)
        return cls({**known, **dict.fromkeys(secrets, SECRET)})

    def text(self, text: str) -> str:
        for found, shown in self._known:
            text = text.replace(found, shown)
        for shape, shown in _SHAPES:
            text = shape.sub(shown, text)
        return text

    def value(self, value: Any) -> Any:
        """All texts in what JSON can hold."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(key)): self.value(each) for key, each in value.items()}
        if isinstance(value, list | tuple):
            return [self.value(each) for each in value]
        return value
