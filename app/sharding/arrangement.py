"""A placement in the making: layers in ranges, each on a node or none yet, changed a step at a time.

Pure and unchangeable: each operation returns another arrangement or raises. All layers are always covered,
in order, at allowed cuts. Whether it fits is asked with the nodes' capacities, since those change meanwhile.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from app.errors import BadInput, PlacementError
from app.figures import size_text
from app.models.description import ModelDescription
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement, place_ranges
from app.sharding.plan import Range, check_ranges, divide, range_text
from app.sharding.stage_sizes import StageSizes, check_serving

Capacities = Mapping[int, NodeCapacity]
"""What nodes that can be used have free for this model, by id."""


@dataclass(frozen=True)
class Piece:
    """Layers [start, end) and the node that gets them; None while nobody has decided."""

    start: int
    end: int
    node_id: int | None = None


@dataclass(frozen=True)
class Shortage:
    """A node that lacks memory for its share."""

    node: NodeCapacity
    needed: int

    @property
    def missing(self) -> int:
        return self.needed - self.node.free_memory


@dataclass(frozen=True)
class Arrangement:
    """Where a model is cut, and which node has which shard. Make one with `empty`, `of_placement` or `of_ranges`."""

    description: ModelDescription
    serving: Serving
    pieces: tuple[Piece, ...]
    sizes: StageSizes = field(compare=False, repr=False)

    # --- beginnings ---

    @classmethod
    def empty(cls, description: ModelDescription, serving: Serving) -> Arrangement:
        """The whole model as one shard that no node has yet. Raises BadInput, PlacementError for the serving."""
        check_serving(description, serving)
        return cls(description, serving, (Piece(0, description.num_layers),), StageSizes(description, serving))

    @classmethod
    def of_placement(cls, description: ModelDescription, placement: Placement) -> Arrangement:
        """What a planner has chosen. Raises BadInput, PlacementError where it is of another model."""
        pieces = [(stage.start, stage.end, stage.node.node_id) for stage in placement.stages]
        return cls.of_ranges(description, placement.serving, pieces)

    @classmethod
    def of_ranges(
        cls, description: ModelDescription, serving: Serving, pieces: Iterable[tuple[int, int, int | None]]
    ) -> Arrangement:
        """Given ranges with their nodes. Raises BadInput unless they are all layers in order, cut where allowed."""
        return cls.empty(description, serving)._with(Piece(*piece) for piece in pieces)

    # --- what is asked ---

    @property
    def model_name(self) -> str:
        return self.description.name

    @property
    def boundaries(self) -> tuple[int, ...]:
        """The inner ones: boundary number k stands between shards k and k + 1."""
        return tuple(piece.start for piece in self.pieces[1:])

    @property
    def ranges(self) -> tuple[Range, ...]:
        """Of the stages that would be loaded: neighbours on one node are one."""
        return tuple((piece.start, piece.end) for piece in self.joined().pieces)

    @property
    def nodes(self) -> tuple[int | None, ...]:
        """Of each shard, in pipeline order."""
        return tuple(piece.node_id for piece in self.pieces)

    @property
    def is_placed(self) -> bool:
        """Whether every shard has a node."""
        return None not in self.nodes

    @property
    def is_untouched(self) -> bool:
        """Whether no shard has a node."""
        return not any(node is not None for node in self.nodes)

    def weights(self, stage: int) -> int:
        piece = self.pieces[stage]
        return self.sizes.weights(piece.start, piece.end)

    def kv(self, stage: int) -> int:
        piece = self.pieces[stage]
        return self.sizes.kv(piece.start, piece.end)

    def memory(self, stage: int) -> int:
        return self.weights(stage) + self.kv(stage)

    def memory_on(self, node_id: int) -> int:
        """Bytes that this arrangement takes on a node."""
        return sum(self.memory(stage) for stage, piece in enumerate(self.pieces) if piece.node_id == node_id)

    def allowed_cuts(self, boundary: int) -> tuple[int, ...]:
        """Where boundary number k may stand, its place of now among them, ascending."""
        self._check_boundary(boundary)
        before, after = self.pieces[boundary], self.pieces[boundary + 1]
        return tuple(cut for cut in self.description.cuts if before.start < cut < after.end)

    def cuts_within(self, stage: int) -> tuple[int, ...]:
        """Where a shard may be split."""
        self._check_stage(stage)
        piece = self.pieces[stage]
        return tuple(cut for cut in self.description.cuts if piece.start < cut < piece.end)

    def shortages(self, capacities: Capacities) -> tuple[Shortage, ...]:
        """Nodes that lack memory, in pipeline order. Nodes that are not among the capacities are not judged."""
        used = dict.fromkeys(piece.node_id for piece in self.pieces)
        found = (
            Shortage(capacities[node], self.memory_on(node)) for node in used if node is not None and node in capacities
        )
        return tuple(shortage for shortage in found if shortage.missing > 0)

    # --- operations ---

    def moved(self, stage: int, node_id: int | None) -> Arrangement:
        """A shard goes to a node, or to none."""
        self._check_stage(stage)
        return self._replaced(stage, replace(self.pieces[stage], node_id=node_id))

    def swapped(self, one: int, other: int) -> Arrangement:
        """Two shards change nodes."""
        self._check_stage(one)
        self._check_stage(other)
        nodes = list(self.nodes)
        nodes[one], nodes[other] = nodes[other], nodes[one]
        return self.on_nodes(nodes)

    def with_boundary(self, boundary: int, layer: int) -> Arrangement:
        """The boundary after shard number `boundary` goes to before `layer`.

        Raises:
            BadInput: there is no such boundary, or it cannot stand there.
        """
        self._check_boundary(boundary)
        before, after = self.pieces[boundary], self.pieces[boundary + 1]
        if not before.start < layer < after.end:
            raise BadInput(
                f"The boundary can stand before layers {before.start + 1} to {after.end - 1}, not before {layer}.",
                "To give all layers of a shard away, merge it with its neighbour.",
            )
        return self._with(
            (
                *self.pieces[:boundary],
                replace(before, end=layer),
                replace(after, start=layer),
                *self.pieces[boundary + 2 :],
            )
        )

    def split(self, stage: int, layer: int) -> Arrangement:
        """Cut a shard in two before `layer`; both halves stay where it was."""
        self._check_stage(stage)
        piece = self.pieces[stage]
        if not piece.start < layer < piece.end:
            raise BadInput(
                f"Shard {stage + 1} holds layers {range_text((piece.start, piece.end))} and cannot be cut before "
                f"layer {layer}."
            )
        halves = (replace(piece, end=layer), replace(piece, start=layer))
        return self._with((*self.pieces[:stage], *halves, *self.pieces[stage + 1 :]))

    def middle_of(self, stage: int) -> int:
        """The allowed cut that halves a shard best by bytes. Raises BadInput when it cannot be cut."""
        cuts, piece = self.cuts_within(stage), self.pieces[stage]
        if not cuts:
            raise BadInput(
                f"Shard {stage + 1} (layers {range_text((piece.start, piece.end))}) cannot be cut any further.",
                " ".join(self.description.cut_notes),
            )
        return min(
            cuts, key=lambda cut: abs(self.sizes.memory(piece.start, cut) - self.sizes.memory(cut, piece.end))
        )  # fmt: skip

    def merged(self, boundary: int) -> Arrangement:
        """The two shards at a boundary become one, on the first's node (the second's if the first has none)."""
        self._check_boundary(boundary)
        before, after = self.pieces[boundary], self.pieces[boundary + 1]
        node = before.node_id if before.node_id is not None else after.node_id
        return self._with(
            (*self.pieces[:boundary], Piece(before.start, after.end, node), *self.pieces[boundary + 2 :])
        )  # fmt: skip

    def with_shards(self, count: int, capacities: Capacities) -> Arrangement:
        """Cut anew into `count` shards of about equal bytes.

        Each goes to the node that held most of its layers, as long as that node has room for it.

        Raises:
            BadInput: the model cannot be cut into so many.
        """
        fresh = self._with(Piece(start, end) for start, end in divide(self.description, count))
        for stage, piece in enumerate(fresh.pieces):
            node = self._main_node(piece)
            if node is not None and node in capacities:
                moved = fresh.moved(stage, node)
                if not moved.shortages(capacities):
                    fresh = moved
        return fresh

    def whole_on(self, node_id: int) -> Arrangement:
        """The whole model as one shard on one node."""
        return self._with((Piece(0, self.description.num_layers, node_id),))

    def cleared(self) -> Arrangement:
        """The same shards, on no node."""
        return self.on_nodes([None] * len(self.pieces))

    def on_nodes(self, nodes: Sequence[int | None]) -> Arrangement:
        """The same shards on other nodes, one for each."""
        if len(nodes) != len(self.pieces):
            raise BadInput(f"{len(nodes)} nodes are given for {len(self.pieces)} shards.", "Give one for each.")
        return replace(
            self,
            pieces=tuple(replace(piece, node_id=node) for piece, node in zip(self.pieces, nodes, strict=True)),
        )

    def without_nodes(self, gone: Iterable[int]) -> Arrangement:
        """Nodes do not exist any more: their shards have none."""
        lost = frozenset(gone)
        if lost.isdisjoint(self.nodes):
            return self
        return self.on_nodes([None if node in lost else node for node in self.nodes])

    def joined(self) -> Arrangement:
        """Neighbours on one node as one shard, which is how they are loaded: a seam within a node costs time."""
        pieces: list[Piece] = []
        for piece in self.pieces:
            if pieces and piece.node_id is not None and pieces[-1].node_id == piece.node_id:
                pieces[-1] = replace(pieces[-1], end=piece.end)
            else:
                pieces.append(piece)
        return replace(self, pieces=tuple(pieces))

    def serving_as(self, serving: Serving) -> Arrangement:
        """The same shards in another dtype or with other figures. Raises BadInput, PlacementError."""
        check_serving(self.description, serving)
        return replace(self, serving=serving, sizes=StageSizes(self.description, serving))

    # --- the end ---

    def check(self, capacities: Capacities) -> None:
        """Raise PlacementError unless every shard has a node that is there and has room for all it gets."""
        lost = [stage for stage, node in enumerate(self.nodes) if node is None]
        if lost:
            which = (
                "No shard has a node yet."
                if len(lost) == len(self.pieces)
                else f"{_shards(lost)} {'has' if len(lost) == 1 else 'have'} no node yet."
            )
            raise PlacementError(which, "Drag the shards onto nodes, or let a plan be proposed.")
        for stage, node in enumerate(self.nodes):
            if node is not None and node not in capacities:
                raise PlacementError(f"The node of shard {stage + 1} is not available.", "Move it to another node.")
        if shortages := self.shortages(capacities):
            lacks = " ".join(
                f"{each.node.name} needs {size_text(each.needed)} and has {size_text(each.node.free_memory)} free: "
                f"{size_text(each.missing)} are missing."
                for each in shortages
            )
            raise PlacementError(
                f"'{self.model_name}' does not fit. {lacks}",
                "Move layers to other nodes, take a smaller dtype, or set aside fewer KV tokens.",
            )

    def to_placement(self, capacities: Capacities) -> Placement:
        """What can be deployed. Raises PlacementError as `check` does."""
        self.check(capacities)
        joined = self.joined()
        nodes = [capacities[piece.node_id] for piece in joined.pieces if piece.node_id is not None]
        return place_ranges(self.description, nodes, self.ranges, self.serving)

    # --- within ---

    def _with(self, pieces: Iterable[Piece]) -> Arrangement:
        made = tuple(pieces)
        check_ranges([(piece.start, piece.end) for piece in made], self.description)
        return replace(self, pieces=made)

    def _replaced(self, stage: int, piece: Piece) -> Arrangement:
        return self._with((*self.pieces[:stage], piece, *self.pieces[stage + 1 :]))

    def _main_node(self, piece: Piece) -> int | None:
        """The node that has most of these layers now."""
        held: dict[int | None, int] = {}
        for old in self.pieces:
            held[old.node_id] = held.get(old.node_id, 0) + max(0, min(old.end, piece.end) - max(old.start, piece.start))
        return max(held, key=lambda node: held[node])

    def _check_stage(self, stage: int) -> None:
        if not 0 <= stage < len(self.pieces):
            raise BadInput(f"There is no shard {stage + 1}; '{self.model_name}' has {len(self.pieces)}.")

    def _check_boundary(self, boundary: int) -> None:
        if not 0 <= boundary < len(self.pieces) - 1:
            raise BadInput(f"There is no boundary {boundary + 1}; '{self.model_name}' has {len(self.pieces)} shards.")


def _shards(stages: Sequence[int]) -> str:
    numbers = [str(stage + 1) for stage in stages]
    return f"Shard {numbers[0]}" if len(numbers) == 1 else f"Shards {', '.join(numbers[:-1])} and {numbers[-1]}"
