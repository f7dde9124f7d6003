"""The ways to compute faster that a stage takes or cannot take, in words for people.

An agent proves each way when it loads a stage; one that changes a result is not taken, and one that was possible and
is not taken is a speed-up that was lost. The answers are the same either way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol


class Way(Protocol):
    """One way as an agent tells it, or as it was recorded: taken `used` times out of `possible`."""

    @property
    def name(self) -> str: ...
    @property
    def used(self) -> int: ...
    @property
    def possible(self) -> int: ...
    @property
    def why(self) -> str: ...


@dataclass(frozen=True, slots=True)
class WayWords:
    """How a way is called, what it is in a sentence, what it counts (one of them, several), and what its loss means."""

    title: str
    explanation: str
    one: str
    several: str
    lost: str


WORDS = {
    "batched": WayWords(
        "Shared steps",
        "Several answers share each step, so that many of them cost little more time than one.",
        "layer",
        "layers",
        "each answer has a pass of its own",
    ),
    "lockstep": WayWords(
        "Lockstep",
        "Answers that have each a pass of their own go side by side, and the weights are read once for all of them.",
        "layer",
        "layers",
        "one answer at a time",
    ),
    "pieces": WayWords(
        "Prompts in pieces",
        "A long prompt is read a piece at a time, and other answers go on in between.",
        "layer",
        "layers",
        "every prompt is read in one go",
    ),
    "reused": WayWords(
        "Prompts that go on",
        "A prompt that begins as an earlier one did starts where they part.",
        "layer",
        "layers",
        "every prompt is read from its beginning, or from the end of a whole earlier one",
    ),
    "blocks": WayWords(
        "Weights in blocks",
        "Matrices stay in the few bits in which they are stored, or into which they were quantized.",
        "matrix",
        "matrices",
        "turned into floats, which take more memory and time",
    ),
    "packed": WayWords(
        "Packed weights",
        "The weights lie in memory, and are multiplied, in the way that is fastest on this processor.",
        "matrix",
        "matrices",
        "not packed",
    ),
    "joined": WayWords(
        "Joined matrices",
        "Matrices that take the same input are multiplied as one.",
        "matrix",
        "matrices",
        "not joined",
    ),
    "norms": WayWords(
        "Fast norms",
        "Each normalization is one operation of torch in place of several.",
        "norm",
        "norms",
        "as the model has them",
    ),
    "recorded": WayWords(
        "Recorded pass",
        "The layers run from a recording, without Python between them.",
        "stage",
        "stages",
        "not recorded",
    ),
    "captured": WayWords(
        "Captured steps",
        "Steps of one token of each answer have fixed shapes, which a GPU runs again by one call.",
        "stage",
        "stages",
        "not captured",
    ),
    "kv_int8": WayWords(
        "Keys and values in 8 bits",
        "What each answer keeps of its tokens takes a quarter of float32's memory, half of bfloat16's.",
        "layer",
        "layers",
        "kept as they are computed, in more memory",
    ),
}


def words_of(name: str) -> WayWords:
    """Also for a way that a newer agent knows and this program does not."""
    return WORDS.get(name) or WayWords(name, "", "place", "places", "not taken")


def is_lost(way: Way) -> bool:
    """Whether it was possible and is not taken everywhere."""
    return way.used < way.possible


SMALLER = "kv_int8"
"""The way that makes nothing faster: it saves memory, and was asked for."""


def lost(ways: Iterable[Way]) -> list[Way]:
    """Speed-ups that were possible and are not taken everywhere."""
    return [way for way in ways if is_lost(way) and way.name != SMALLER]


def way_text(way: Way) -> str:
    """Whether a way is taken, why not where it is not, and what it costs. Empty for what does not concern this stage.

    all 15 layers; all 90 matrices: what quantizing cost; 2 of 60 matrices not packed: …;
    each answer has a pass of its own: …; not here: …
    """
    short = way_short(way)
    return f"{short}: {way.why}" if way.why else short


def way_short(way: Way) -> str:
    """The same without the reason."""
    words = words_of(way.name)
    if not way.possible:
        return "not here" if way.why else ""
    if not is_lost(way):
        if way.name in ("recorded", "captured"):
            return "yes"
        return f"all {way.used:,} {words.several}" if way.used > 1 else f"its one {words.one}"
    if way.name in (
        "batched",
        "pieces",
        "reused",
        "recorded",
        "captured",
        "kv_int8",
    ):  # of a stage as a whole: one layer that cannot is enough
        return words.lost
    return f"{way.possible - way.used:,} of {way.possible:,} {words.several} {words.lost}"


def way_lines(ways: Iterable[Way]) -> list[tuple[str, str]]:
    """(title, text) of each way that has to do with the stage."""
    return [(words_of(way.name).title, text) for way in ways if (text := way_text(way))]


def lost_text(ways: Sequence[Way]) -> str:
    """What speed is lost, in one line; empty when none is. not recorded: …; 2 of 60 matrices not packed: …"""
    return "; ".join(way_text(way) for way in lost(ways))


def larger_text(ways: Sequence[Way]) -> str:
    """Why keys and values take more memory than was asked for; empty where they do not."""
    return "; ".join(way.why for way in ways if way.name == SMALLER and is_lost(way))
