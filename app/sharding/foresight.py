"""What a placement over given nodes would be like to use: the prediction, fed with what is known of nodes and links.

Pure: records in, what is foreseen out. `prediction.py` has the formulas; here is said which figures were measured
and which had to be assumed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from app.errors import BadInput
from app.figures import data_rate, duration
from app.models.description import ModelDescription
from app.registry.records import LinkRecord, NodeRecord
from app.runs.trace import Foreseen, StageForeseen
from app.serving import Serving
from app.sharding.correction import NOTHING_LEARNED, Corrections
from app.sharding.prediction import (
    LOCAL_BYTES_PER_SECOND,
    MESSAGE_SECONDS,
    NETWORK_BYTES_PER_SECOND,
    PROMPT_TOKENS,
    LinkSpeed,
    Prediction,
    predict,
    speed_of,
)

LinkSpeeds = Mapping[tuple[int, int], LinkSpeed]
"""By the nodes from and to which it goes."""


def link_speeds(links: Sequence[LinkRecord]) -> dict[tuple[int, int], LinkSpeed]:
    """What the newest measurement of each direction says; none of one that did not work then.

    Args:
        links: the newest first.
    """
    return {
        pair: LinkSpeed(link.rtt, link.bytes_per_second)
        for pair, link in _newest(links).items()
        if link.is_measured and link.rtt is not None and link.bytes_per_second
    }


def dead_links(links: Sequence[LinkRecord]) -> frozenset[tuple[int, int]]:
    """Directions that did not work when they were last measured.

    Args:
        links: the newest first.
    """
    return frozenset(pair for pair, link in _newest(links).items() if not link.is_measured)


def _newest(links: Sequence[LinkRecord]) -> dict[tuple[int, int], LinkRecord]:
    newest: dict[tuple[int, int], LinkRecord] = {}
    for link in links:
        newest.setdefault((link.source_id, link.target_id), link)
    return newest


def foretell(
    description: ModelDescription,
    serving: Serving,
    stages: Sequence[tuple[int, int, NodeRecord]],
    *,
    round_trips: Mapping[int, float | None],
    links: LinkSpeeds,
    corrections: Corrections = NOTHING_LEARNED,
    prompt_tokens: int = PROMPT_TOKENS,
) -> Prediction | None:
    """Predict a pipeline from what the registry knows; None where a node has not measured itself in this dtype.

    Args:
        stages: `(start, end, node)` in pipeline order, all layers.
        round_trips: from the controller to each node and back, seconds, where that is known.
        corrections: what earlier runs have taught.
    """
    told, runs = [], list[int]()
    for start, end, node in stages:
        speed = speed_of(node.capacities, serving.dtype, round_trips.get(node.id))
        if speed is None:
            return None
        learned = corrections.of_node(node.id, description.name, serving.dtype, serving.quantize, speed)
        runs.append(learned.token.runs)
        told.append((start, end, learned.of(speed)))
    nodes = [node for _, _, node in stages]
    known = [links.get((one.id, other.id)) for one, other in _hops(nodes)]
    ways = [
        corrections.of_way(one.id, other.id, serving.dtype, serving.quantize, link)
        for (one, other), link in zip(_hops(nodes), known, strict=True)
    ]
    runs += [way.runs for way in ways]
    try:
        prediction = predict(
            description,
            told,
            dtype=serving.dtype,
            quantize=serving.quantize,
            same_machine=[one.machine == other.machine for one, other in _hops(nodes)],
            links=known,
            way_factors=[way.factor for way in ways],
            prompt_tokens=prompt_tokens,
        )
    except BadInput:  # figures of a machine that make no sense: better none than a wrong one
        return None
    return replace(prediction, corrected_runs=max(runs))


def foreseen(prediction: Prediction, nodes: Sequence[NodeRecord], serving: Serving) -> Foreseen:
    """A prediction as it is kept with a run.

    Args:
        nodes: of the stages, in pipeline order.
    """
    following: list[int | None] = [other.id for _, other in _hops(nodes)] or [None]
    return Foreseen(
        tokens_per_second=prediction.tokens_per_second,
        first_token_us=round(prediction.first_token_seconds * 1e6),
        prompt_tokens=prediction.prompt_tokens,
        network_share=prediction.network_share,
        assumed=assumed_texts(prediction, nodes),
        correction=prediction.correction,
        corrected_runs=prediction.corrected_runs,
        dtype=serving.dtype,
        quantize=serving.quantize,
        stages=tuple(
            StageForeseen(
                node_id=node.id,
                following_id=next_id,
                token=stage.token,
                prompt=stage.prompt,
                way=stage.way,
                read_bytes_per_second=stage.speed.read_bytes_per_second,
                flops_per_second=stage.speed.flops_per_second,
                rtt=None if stage.link is None else stage.link.rtt,
            )
            for node, next_id, stage in zip(nodes, following, prediction.stages, strict=True)
        ),
    )


def assumed_texts(prediction: Prediction, nodes: Sequence[NodeRecord]) -> tuple[str, ...]:
    """What was assumed instead of measured, a sentence for each kind of it."""
    pairs = _hops(nodes)
    hops = [pairs[hop] for hop in prediction.assumed_hops]
    local = [pair for pair in hops if pair[0].machine == pair[1].machine]
    apart = dict.fromkeys(f"{one.hostname} to {other.hostname}" for one, other in hops if (one, other) not in local)
    texts = []
    if local:
        texts.append(
            f"Between agents of one machine {duration(MESSAGE_SECONDS)} for a message and "
            f"{data_rate(LOCAL_BYTES_PER_SECOND)} were assumed."
        )
    if apart:
        texts.append(
            f"Not measured: {', '.join(apart)}. Half of the controller's round trip and "
            f"{data_rate(NETWORK_BYTES_PER_SECOND)} were assumed; doctor --links measures."
        )
    return tuple(texts)


def _hops(nodes: Sequence[NodeRecord]) -> list[tuple[NodeRecord, NodeRecord]]:
    """From each stage to the next, and from the last to the first; a single stage has none."""
    return list(zip(nodes, [*nodes[1:], *nodes[:1]], strict=True)) if len(nodes) > 1 else []
