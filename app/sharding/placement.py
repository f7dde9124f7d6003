"""Which layers go to which node, and what memory that takes. Pure: capacities in, placement out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median_low

from app.errors import BadInput, PlacementError
from app.figures import size_text
from app.models.description import COMPUTE_ITEM_BYTES, ModelDescription
from app.runs.trace import Foreseen
from app.serving import KV_DTYPES, MAX_WAIT_SECONDS, QUANTIZE, RECOVERIES, Serving
from app.sharding.plan import Range, check_ranges, partition, range_text, stage_memory

INFINITE = float("inf")

JOURNAL_BASE = 1_000_000
"""What the steps themselves take, apart from the hidden states."""
MAX_SEQUENCES = 256
"""Sequences that a deployment runs at once, at most."""
TOKENS_WITH_STATE = 1024
"""Where sequences keep states, one for so many KV tokens runs at once: each state may be as large as thousands of
tokens' keys and values, and all of them are set aside."""


@dataclass(frozen=True)
class NodeCapacity:
    """What a node has to offer, as far as placing needs to know."""

    node_id: int
    name: str
    free_memory: int
    """Bytes that weights and KV may take."""
    speed: float = 1.0
    """Relative to other nodes: twice as fast takes twice the bytes in the same time."""
    agent_memory: int = 0
    """Bytes of main memory that its agent takes itself, besides all stages. They are no part of `free_memory`."""
    used_memory: int = 0
    """Bytes that stages take there already."""
    on_gpu: bool = False
    """Whether stages lie in a GPU's memory, and the agent alone in main memory."""


ALIKE = 0.15
"""Two measurements of one machine differ by so much; machines that differ by no more count as equally fast."""


def relative_speeds(measured: Mapping[int, float | None], machines: Mapping[int, str]) -> dict[int, float]:
    """How fast nodes are for placing, 1 being the median of what was measured.

    Agents of one machine have the same cores, so each counts as fast as the fastest of them was measured: what
    one found while another was busy says less. A node that has not measured counts as the median.

    Args:
        measured: bytes per second by node; None for a node that has not measured.
        machines: by node, a name that agents of one machine have in common.
    """
    fastest: dict[str, float] = {}
    for node, speed in measured.items():
        if speed is not None:
            fastest[machines[node]] = max(speed, fastest.get(machines[node], 0.0))
    speeds = {node: fastest.get(machines[node]) for node in measured}
    known = sorted(speed for speed in speeds.values() if speed is not None)
    if not known:
        return dict.fromkeys(measured, 1.0)
    levels = _levels(known)
    middle = levels[median_low(known)]
    return {node: 1.0 if speed is None else levels[speed] / middle for node, speed in speeds.items()}


def _levels(ascending: Sequence[float]) -> dict[float, float]:
    """Each speed's level: the mean of those that are alike."""
    levels: dict[float, float] = {}
    group: list[float] = []
    for speed in [*ascending, INFINITE]:
        if group and speed > group[0] * (1 + ALIKE):
            levels.update(dict.fromkeys(group, fmean(group)))
            group = []
        group.append(speed)
    return levels


def sequences_at_once(description: ModelDescription, serving: Serving) -> int:
    """How many sequences a deployment runs at once; more wait."""
    if not description.has_states:
        return MAX_SEQUENCES
    return min(MAX_SEQUENCES, max(1, serving.kv_tokens // TOKENS_WITH_STATE))


def kept_for(description: ModelDescription, serving: Serving) -> str:
    """In words, what the memory for keys and values suffices for."""
    tokens = f"{serving.kv_tokens:,} tokens"
    if not description.has_states:
        return tokens
    count = sequences_at_once(description, serving)
    return f"{tokens} and the states of {count} sequence{'s' * (count > 1)}"


def journal_bytes(description: ModelDescription, serving: Serving) -> int:
    """What each stage may keep of what it sent: the hidden states of twice as many tokens as its pool holds.

    Twice, since what a sequence shared a step with stays as long as it does.
    """
    if serving.recovery != "exact":
        return 0
    return 2 * serving.kv_tokens * description.hidden_size * COMPUTE_ITEM_BYTES[serving.dtype] + JOURNAL_BASE


class StageSizes:
    """Bytes that layers [start, end) take. Made once for a model and its serving: every mouse move asks."""

    def __init__(self, description: ModelDescription, serving: Serving) -> None:
        self._weights = stage_memory(description, serving)
        self.journal = journal_bytes(description, serving)
        """What a stage may keep of what it sent."""
        sequences = sequences_at_once(description, serving)
        each = (
            description.kv_bytes_per_token(serving.dtype, layer, layer + 1, kv_dtype=serving.kv_dtype)
            * serving.kv_tokens
            + description.state_bytes_per_sequence(serving.dtype, layer, layer + 1) * sequences
            for layer in range(description.num_layers)
        )
        self._kv = [0, *accumulate(each)]

    def weights(self, start: int, end: int) -> int:
        """Once loaded."""
        return self._weights(start, end)

    def kv(self, start: int, end: int) -> int:
        """Keys and values, and the states of as many sequences as run at once."""
        return self._kv[end] - self._kv[start]

    def memory(self, start: int, end: int) -> int:
        return self.weights(start, end) + self.kv(start, end) + self.journal

    def placed(self, node: NodeCapacity, layers: Range) -> PlacedStage:
        return PlacedStage(node, *layers, self.weights(*layers), self.kv(*layers), self.journal)


@dataclass(frozen=True)
class PlacedStage:
    """One node's share."""

    node: NodeCapacity
    start: int
    end: int
    weight_bytes: int
    """Weights once loaded."""
    kv_bytes: int
    journal_bytes: int = 0

    @property
    def memory(self) -> int:
        return self.weight_bytes + self.kv_bytes + self.journal_bytes

    @property
    def missing(self) -> int:
        """Bytes that the node lacks; 0 when it fits."""
        return max(0, self.memory - self.node.free_memory)


@dataclass(frozen=True)
class AgentProcess:
    """What an agent's process will hold, once its caches are full."""

    node: NodeCapacity
    weight_bytes: int
    kv_bytes: int
    journal_bytes: int = 0

    @property
    def memory(self) -> int:
        """Bytes of main memory: the agent itself, what is loaded already, and this."""
        stages = 0 if self.node.on_gpu else self.node.used_memory + self.weight_bytes + self.kv_bytes
        return self.node.agent_memory + stages + self.journal_bytes


@dataclass(frozen=True)
class Placement:
    """Which node gets which layers, in pipeline order."""

    model_name: str
    serving: Serving
    stages: tuple[PlacedStage, ...]
    left_out: tuple[NodeCapacity, ...] = ()
    """Nodes that were offered and get nothing, because they are too small or there are more nodes than layers."""
    foreseen: Foreseen | None = None
    """What is predicted of it, where that was asked for and the nodes have measured themselves."""
    replica_of: str = ""
    """The group of deployments that it joins as a replica; empty for one that begins a group."""
    moves: str = ""
    """The deployment whose stages go there while it answers; empty for a new one."""

    @property
    def ranges(self) -> tuple[Range, ...]:
        return tuple((stage.start, stage.end) for stage in self.stages)

    @property
    def processes(self) -> tuple[AgentProcess, ...]:
        """Each node's once, however many stages it gets."""
        return tuple(
            AgentProcess(
                node,
                sum(stage.weight_bytes for stage in mine),
                sum(stage.kv_bytes for stage in mine),
                sum(stage.journal_bytes for stage in mine),
            )
            for node in dict.fromkeys(stage.node for stage in self.stages)
            if (mine := [stage for stage in self.stages if stage.node == node])
        )

    @property
    def fits(self) -> bool:
        return not any(stage.missing for stage in self.stages)


def place(description: ModelDescription, nodes: Sequence[NodeCapacity], serving: Serving) -> Placement:
    """Divide the layers over the nodes, in the order given, so that the slowest stage is as fast as possible.

    Every node gets layers where that fits; else nodes that are too small are left out.

    Raises:
        BadInput, PlacementError: as `check_serving`.
        PlacementError: nothing fits; the text says which node lacks how much.
    """
    if not nodes:
        raise PlacementError("There is no node to place the model on.", "Add a node, or start agents on this machine.")
    check_serving(description, serving)
    sizes = StageSizes(description, serving)

    def cost(node: NodeCapacity) -> Callable[[int, int], float]:
        def seconds(start: int, end: int) -> float:
            needed = sizes.memory(start, end)
            return needed / max(node.speed, 1e-9) if needed <= node.free_memory else INFINITE

        return seconds

    def skippable(node: NodeCapacity) -> Callable[[int, int], float]:
        fitting = cost(node)
        return lambda start, end: 0.0 if start == end else fitting(start, end)

    ranges = partition(description.num_layers, description.cuts, [cost(node) for node in nodes])
    if ranges is None:
        ranges = _with_gaps(description, [skippable(node) for node in nodes])
    if ranges is None:
        raise PlacementError(
            f"'{description.name}' does not fit. " + _lacks(description, nodes, sizes),
            "Free memory on these nodes, add a node, take a smaller dtype, or set aside fewer KV tokens.",
        )
    stages = tuple(
        sizes.placed(node, layers) for node, layers in zip(nodes, ranges, strict=True) if layers[0] != layers[1]
    )
    used = {stage.node.node_id for stage in stages}
    left_out = tuple(node for node in nodes if node.node_id not in used)
    return Placement(description.name, serving, stages, left_out)


def place_ranges(
    description: ModelDescription, nodes: Sequence[NodeCapacity], ranges: Sequence[Range], serving: Serving
) -> Placement:
    """Put given ranges on given nodes, one each, and say what memory that takes; it need not fit (`Placement.fits`).

    Raises:
        BadInput: the ranges are not all layers in order.
        PlacementError: not one node for each range.
        BadInput, PlacementError: as `check_serving`.
    """
    check_ranges(ranges, description)
    check_serving(description, serving)
    if len(ranges) != len(nodes):
        raise PlacementError(f"{len(ranges)} ranges of layers are given for {len(nodes)} nodes.", "Give one for each.")
    sizes = StageSizes(description, serving)
    stages = tuple(sizes.placed(node, layers) for node, layers in zip(nodes, ranges, strict=True))
    return Placement(description.name, serving, stages)


def check_fits(placement: Placement) -> None:
    """Raise PlacementError naming every node that lacks memory, and how much."""
    if not placement.fits:
        raise PlacementError(
            f"'{placement.model_name}' does not fit. " + _shortage(placement.stages),
            "Move layers to other nodes, take a smaller dtype, or set aside fewer KV tokens.",
        )


def whole_on_one(description: ModelDescription, nodes: Sequence[NodeCapacity], serving: Serving) -> Placement | None:
    """The whole model as one stage on the fastest node that can hold it, None when none can."""
    everything = ((0, description.num_layers),)
    options = (
        place_ranges(description, (node,), everything, serving)
        for node in sorted(nodes, key=lambda node: (-node.speed, -node.free_memory))
    )
    return next((option for option in options if option.fits), None)


def check_serving(description: ModelDescription, serving: Serving) -> None:
    """Raise BadInput for what no model can be loaded for, PlacementError for what this one cannot."""
    if serving.dtype not in COMPUTE_ITEM_BYTES:
        raise BadInput(f"'{serving.dtype}' is no dtype to compute with.", f"Take {', '.join(COMPUTE_ITEM_BYTES)}.")
    if serving.quantize not in QUANTIZE:
        raise BadInput(f"'{serving.quantize}' is nothing to quantize to.", f"Take {', '.join(QUANTIZE)}.")
    if serving.kv_dtype not in KV_DTYPES:
        raise BadInput(f"Keys and values cannot be kept in '{serving.kv_dtype}'.", f"Take {', '.join(KV_DTYPES)}.")
    if not 0 <= serving.wait_seconds <= MAX_WAIT_SECONDS:
        raise BadInput(f"Answers wait for a lost node for 0 to {MAX_WAIT_SECONDS:,} seconds.")
    if serving.recovery not in RECOVERIES:
        raise BadInput(f"Answers cannot go on in the way '{serving.recovery}'.", f"Take {', '.join(RECOVERIES)}.")
    if serving.context < 1 or serving.kv_tokens < 1:
        raise BadInput("Context and KV tokens must be at least 1.")
    if serving.context > description.max_context:
        raise PlacementError(
            f"'{description.name}' reads at most {description.max_context:,} tokens, not {serving.context:,}.",
            "Take a smaller context. Where the model's card tells how to extend it (YaRN for one), put that into its "
            "config.json and add the model anew.",
        )


def _with_gaps(description: ModelDescription, costs: Sequence[Callable[[int, int], float]]) -> tuple[Range, ...] | None:
    """Like `partition`, but a node may get nothing: the range (b, b). As few nodes as possible stay empty."""
    boundaries = (0, *description.cuts, description.num_layers)
    best: list[tuple[float, int, tuple[Range, ...]] | None] = [(0.0, 0, ())] + [None] * (len(boundaries) - 1)
    for cost in costs:
        following: list[tuple[float, int, tuple[Range, ...]] | None] = [None] * len(boundaries)
        for end_index, end in enumerate(boundaries):
            for start_index, start in enumerate(boundaries[: end_index + 1]):
                so_far = best[start_index]
                if so_far is None:
                    continue
                value = max(so_far[0], cost(start, end))
                known = following[end_index]
                candidate = (value, so_far[1] + (start == end), (*so_far[2], (start, end)))
                if value < INFINITE and (known is None or candidate[:2] < known[:2]):
                    following[end_index] = candidate
        best = following
    return None if best[-1] is None else best[-1][2]


def _lacks(description: ModelDescription, nodes: Sequence[NodeCapacity], sizes: StageSizes) -> str:
    """The division that comes closest to fitting, and what it lacks where."""
    usable = min(len(nodes), len(description.cuts) + 1)
    largest = sorted(nodes, key=lambda node: -node.free_memory)[:usable]
    chosen = [node for node in nodes if node in largest]
    costs = [
        (lambda start, end, free=node.free_memory: float(max(1, sizes.memory(start, end) - free))) for node in chosen
    ]
    ranges = partition(description.num_layers, description.cuts, costs)
    assert ranges is not None  # every cost is finite and there are enough boundaries
    return _shortage([sizes.placed(node, layers) for node, layers in zip(chosen, ranges, strict=True)])


def _shortage(stages: Sequence[PlacedStage]) -> str:
    lines = [
        f"{stage.node.name} (node {stage.node.node_id}) needs {size_text(stage.memory)} for layers "
        f"{range_text((stage.start, stage.end))} and has {size_text(stage.node.free_memory)} free: "
        f"{size_text(stage.missing)} are missing."
        for stage in stages
        if stage.missing
    ]
    return " ".join(lines)
