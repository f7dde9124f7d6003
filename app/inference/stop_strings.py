"""Stop strings found while text streams in: what may be shown, and where the text ends.

The answer ends at the first moment at which the text so far ends with a stop string; the longest such string and all
after it are cut off. The result does not depend on how the text was divided into deltas.
"""

from __future__ import annotations

from collections.abc import Sequence


class _Matcher:
    """Knuth, Morris and Pratt's automaton for one stop string: `state` characters of it end the text so far."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.state = 0
        self._failure = [0] * len(stop)
        state = 0
        for index in range(1, len(stop)):
            while state and stop[index] != stop[state]:
                state = self._failure[state - 1]
            if stop[index] == stop[state]:
                state += 1
            self._failure[index] = state

    def advance(self, character: str) -> bool:
        """Take one character; True when the stop string is complete."""
        while self.state and character != self.stop[self.state]:
            self.state = self._failure[self.state - 1]
        if character == self.stop[self.state]:
            self.state += 1
        if self.state == len(self.stop):
            self.state = self._failure[self.state - 1]
            return True
        return False


class StopStrings:
    """Feed the deltas of one answer, show what comes back; then `flush`.

    What may still turn out to be the beginning of a stop string is held back. Each character costs the same,
    however long the answer is.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("an empty stop string matches everywhere")
        self._matchers = [_Matcher(stop) for stop in stops]
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None while it goes on."""
        return self._matched

    def feed(self, delta: str) -> str:
        """Take the next text; the text that may be shown now. Nothing more comes after a match."""
        if self._matched is not None:
            return ""
        if not self._matchers:
            return delta
        text = self._held + delta
        for index, character in enumerate(delta, start=len(self._held)):
            complete = [matcher.stop for matcher in self._matchers if matcher.advance(character)]
            if complete:
                self._matched = max(complete, key=len)
                self._held = ""
                return text[: index + 1 - len(self._matched)]
        hold = max(matcher.state for matcher in self._matchers)
        self._held = text[len(text) - hold :]
        return text[: len(text) - hold]

    def flush(self) -> str:
        """The answer is over: what was held back, for it did not become a stop string."""
        held, self._held = self._held, ""
        return held
