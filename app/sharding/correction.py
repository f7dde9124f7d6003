"""What earlier runs teach of predictions: by what those of a node, or of a way between two, are to be multiplied. Pure.

A comparison has what the formulas said of one stage beside what was measured of it (`app/runs/foreseen.py` makes them
of a request's trace). Always the formulas alone: what was corrected is never learned from, else each correction would
correct the one before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from math import exp, isclose, log
from operator import itemgetter

from app.registry.records import ComparisonRecord
from app.sharding.prediction import LinkSpeed, NodeSpeed

DECAY = 0.8
"""Each run says so much of what the next newer one says."""
DOUBT = 0.4
"""That nothing is to be corrected counts as so much of the newest run: one run alone is not believed wholly."""
OTHER_MODEL = 0.25
"""What another model's run says beside one of the same model: the formulas miss each in its own way."""
SAME_MACHINE = 0.25
"""Figures of a node that differ by no more are those of the same machine: an agent measures at each start, and is never
quite alone then."""
SAME_LINK = 0.5
"""The same of a link's round trip, which the traffic of others moves more."""
MOST = 4.0
"""No correction multiplies or divides by more: whatever was that far off was something else that went on."""


@dataclass(frozen=True)
class Pair:
    """Seconds that were predicted, and that were measured; and how much that says."""

    predicted: float
    measured: float
    weight: float = 1.0


@dataclass(frozen=True)
class Correction:
    """By what a prediction is multiplied, and from how many runs that was learned."""

    factor: float = 1.0
    runs: int = 0


def learned(pairs: Iterable[Pair]) -> Correction:
    """The factor that these pairs ask for.

    The weighted median of measured over predicted, on the scale of logarithms, drawn towards 1 while few runs speak: a
    run during which the machine had other things to do moves nothing by itself, and what all agree on is believed the
    more the more there are.

    Args:
        pairs: the newest first. What makes no sense, of no time or less, is left out.
    """
    weight, weighed = 1.0, list[tuple[float, float]]()
    for pair in pairs:
        if pair.predicted > 0 and pair.measured > 0:
            ratio = log(pair.measured / pair.predicted)
            weighed.append((max(-log(MOST), min(log(MOST), ratio)), weight * pair.weight))
            weight *= DECAY
    if not weighed:
        return Correction()
    together = sum(weight for _, weight in weighed)
    return Correction(exp(_median(weighed) * together / (together + DOUBT)), len(weighed))


def _median(weighed: list[tuple[float, float]]) -> float:
    """The value that has as much weight below as above it; between two where both have half of it."""
    weighed = sorted(weighed, key=itemgetter(0))
    half, below = sum(weight for _, weight in weighed) / 2, 0.0
    for place, (value, weight) in enumerate(weighed):
        below += weight
        if isclose(below, half) and place + 1 < len(weighed):
            return (value + weighed[place + 1][0]) / 2
        if below > half:
            return value
    return weighed[-1][0]


@dataclass(frozen=True)
class NodeCorrection:
    """Of what a stage takes on one node."""

    token: Correction = Correction()
    prompt: Correction = Correction()

    def of(self, speed: NodeSpeed) -> NodeSpeed:
        """The node's speed with it."""
        return replace(speed, token_factor=self.token.factor, prompt_factor=self.prompt.factor)


class Corrections:
    """What is learned from all comparisons that are kept.

    Args:
        comparisons: the newest first.
    """

    def __init__(self, comparisons: Sequence[ComparisonRecord] = ()) -> None:
        self._nodes: dict[tuple[int, str, str], list[ComparisonRecord]] = {}
        self._ways: dict[tuple[int, int, str, str], list[ComparisonRecord]] = {}
        for each in comparisons:
            self._nodes.setdefault((each.node_id, each.dtype, each.quantize), []).append(each)
            if each.following_id is not None:
                way = each.node_id, each.following_id, each.dtype, each.quantize
                self._ways.setdefault(way, []).append(each)

    def of_node(self, node: int, model: str, dtype: str, quantize: str, speed: NodeSpeed) -> NodeCorrection:
        """By comparisons in the same numbers, those of the same model before all.

        Args:
            speed: what the agent has measured. Comparisons by figures unlike these are forgotten: the machine has
                changed, or what was wrong with the figures may be right now.
        """
        known = [
            (each, 1.0 if each.model_name == model else OTHER_MODEL)
            for each in self._nodes.get((node, dtype, quantize), ())
            if isclose(each.read_bytes_per_second, speed.read_bytes_per_second, rel_tol=SAME_MACHINE)
            and isclose(each.flops_per_second, speed.flops_per_second, rel_tol=SAME_MACHINE)
        ]
        return NodeCorrection(
            learned(Pair(each.token_predicted, each.token_measured, weight) for each, weight in known),
            learned(Pair(each.prompt_predicted, each.prompt_measured, weight) for each, weight in known),
        )

    def of_way(self, source: int, target: int, dtype: str, quantize: str, link: LinkSpeed | None) -> Correction:
        """Of the way from one node to another in the same numbers, by comparisons while it was much as it is.

        Args:
            link: what was measured of it.
        """
        return learned(
            Pair(each.way_predicted, each.way_measured)
            for each in self._ways.get((source, target, dtype, quantize), ())
            if (each.rtt is None and link is None)
            or (each.rtt is not None and link is not None and isclose(each.rtt, link.rtt, rel_tol=SAME_LINK))
        )

    def ways(self, dtype: str, quantize: str) -> list[tuple[int, int]]:
        """Those of which something was ever measured in these numbers."""
        return [way[:2] for way in self._ways if way[2:] == (dtype, quantize)]


NOTHING_LEARNED = Corrections()
