"""Stop strings found while text streams in: what may be shown, and where the text ends.

The answer ends at the first moment at which the text so far ends with a stop string; the longest such string and all
after it are cut off. The result does not depend on how the text was divided into deltas.

Text may come hidden: special tokens, which an answer does not show. Stop strings that have one in them find it there;
to all others the text is what is shown.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence


class _Matcher:
    """Knuth, Morris and Pratt's automaton for one stop string: `state` characters of it end the text so far."""

    def __init__(self, stop: str, sees_hidden: bool) -> None:
        self.stop, self.sees_hidden = stop, sees_hidden
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

    Args:
        specials: texts of the tokens that may come hidden.
        included: the stop string that ends the text is shown as its end.
    """

    def __init__(self, stops: Sequence[str], specials: Collection[str] = (), *, included: bool = False) -> None:
        if not all(stops):
            raise ValueError("an empty stop string matches everywhere")
        self._matchers = [_Matcher(stop, any(special in stop for special in specials)) for stop in stops]
        self._included = included
        self._held: list[tuple[str, bool]] = []
        """Characters, and whether each is hidden."""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None while it goes on."""
        return self._matched

    @property
    def sees_hidden(self) -> bool:
        """Whether hidden text makes a difference to any of them."""
        return any(matcher.sees_hidden for matcher in self._matchers)

    def feed(self, delta: str, *, hidden: bool = False, may_stop: bool = True) -> str:
        """Take the next text; the text that may be shown now. Nothing more comes after a match.

        Args:
            hidden: it is not to be shown.
            may_stop: whether the answer may end with what is complete now.
        """
        if self._matched is not None:
            return ""
        if not self._matchers:
            return "" if hidden else delta
        for character in delta:
            self._held.append((character, hidden))
            complete = [
                matcher
                for matcher in self._matchers
                if (matcher.sees_hidden or not hidden) and matcher.advance(character) and may_stop
            ]
            if complete:
                longest = max(complete, key=lambda matcher: len(matcher.stop))
                self._matched = longest.stop
                shown = self._take(self._start_of(len(longest.stop), longest.sees_hidden))
                self._held = []
                return shown + (longest.stop if self._included else "")
        return self._take(min(self._start_of(matcher.state, matcher.sees_hidden) for matcher in self._matchers))

    def flush(self) -> str:
        """The answer is over: what was held back, for it did not become a stop string."""
        return self._take(len(self._held))

    def _start_of(self, count: int, sees_hidden: bool) -> int:
        """Where in what is held the last `count` characters begin, hidden ones left out unless they are seen."""
        start = len(self._held)
        while count:
            start -= 1
            count -= sees_hidden or not self._held[start][1]
        return start

    def _take(self, count: int) -> str:
        """The first `count` characters of what is held, without those that are hidden; they are held no more."""
        taken, self._held = self._held[:count], self._held[count:]
        return "".join(character for character, hidden in taken if not hidden)
