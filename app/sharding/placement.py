"""Which layers are on which node, and what memory that takes. Pure: capacities in, placement out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import PlacementError
from app.figures import size_text
from app.models.description import ModelDescription
from app.runs.trace import Foreseen
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.plan import Range, check_ranges, range_text
from app.sharding.stage_sizes import StageSizes, check_serving, working_bytes


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
    layers: int = 0

    @property
    def working_bytes(self) -> int:
        """What computing takes besides: recordings of the layers, activations, code that is read when it is needed."""
        return working_bytes(self.layers, on_gpu=self.node.on_gpu)

    @property
    def memory(self) -> int:
        """Bytes of main memory: the agent itself, what is loaded already, and this."""
        stages = 0 if self.node.on_gpu else self.node.used_memory + self.weight_bytes + self.kv_bytes
        return self.node.agent_memory + stages + self.journal_bytes + self.working_bytes

    def figures(self) -> dict[str, Any]:
        """All of it by name, for programs."""
        node = self.node
        return {
            "node_id": node.node_id, "node": node.name, "agent_bytes": node.agent_memory,
            "loaded_bytes": node.used_memory, "weight_bytes": self.weight_bytes, "kv_bytes": self.kv_bytes,
            "working_bytes": self.working_bytes, "on_gpu": node.on_gpu, "process_bytes": self.memory,
        }  # fmt: skip


@dataclass(frozen=True)
class Reason:
    """Why a node takes what it takes, or nothing."""

    node_id: int
    name: str
    text: str
    """As the rest of a sentence that begins with the name: takes layers 0–11: …"""

    @property
    def sentence(self) -> str:
        return f"{self.name} ({self.node_id}) {self.text}."


@dataclass(frozen=True)
class Placement:
    """Which node gets which layers, in pipeline order."""

    model_name: str
    serving: Serving
    stages: tuple[PlacedStage, ...]
    left_out: tuple[NodeCapacity, ...] = ()
    """Nodes that were offered and get nothing; why, the reasons say."""
    aim: str = ""
    """What it was chosen for (`AIMS`); empty where somebody chose nodes and layers."""
    reasons: tuple[Reason, ...] = ()
    """Of every node that could be chosen: in the order of the stages, then those that get nothing."""
    remark: str = ""
    """Where fewer machines are faster, that, with the figures."""
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
                sum(stage.end - stage.start for stage in mine),
            )
            for node in dict.fromkeys(stage.node for stage in self.stages)
            if (mine := [stage for stage in self.stages if stage.node == node])
        )

    @property
    def fits(self) -> bool:
        return not any(stage.missing for stage in self.stages)


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
    stages = tuple(_placed(sizes, node, layers) for node, layers in zip(nodes, ranges, strict=True))
    return Placement(description.name, serving, stages)


def _placed(sizes: StageSizes, node: NodeCapacity, layers: Range) -> PlacedStage:
    return PlacedStage(node, *layers, sizes.weights(*layers), sizes.kv(*layers), sizes.journal)


def check_fits(placement: Placement) -> None:
    """Raise PlacementError naming every node that lacks memory, and how much."""
    if not placement.fits:
        raise PlacementError(
            f"'{placement.model_name}' does not fit. " + shortage(placement.stages),
            "Move layers to other nodes, take a smaller dtype, or set aside fewer KV tokens.",
        )


def whole_on_one(description: ModelDescription, nodes: Sequence[NodeCapacity], serving: Serving) -> Placement | None:
    """The whole model as one stage on the fastest node that can hold it, None when none can."""
    everything = (0, description.num_layers)
    needed = StageSizes(description, serving).memory(*everything)
    able = [node for node in nodes if node.free_memory >= needed]
    if not able:
        return None
    best = max(able, key=lambda node: (node.speed, node.free_memory))
    return place_ranges(description, (best,), (everything,), serving)


def shortage(stages: Sequence[PlacedStage]) -> str:
    """What the nodes of stages lack, a sentence for each."""
    lines = [
        f"{stage.node.name} (node {stage.node.node_id}) needs {size_text(stage.memory)} for layers "
        f"{range_text((stage.start, stage.end))} and has {size_text(stage.node.free_memory)} free: "
        f"{size_text(stage.missing)} are missing."
        for stage in stages
        if stage.missing
    ]
    return " ".join(lines)
