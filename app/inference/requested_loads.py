"""Models that requests have loaded: whole, on one node that can hold them, by a job that everybody sees.

A request that finds no deployment asks for one here and waits for it, with all others who need the same model. Who is
cancelled waits no more, and the job ends with the last who waited: what it loads would take memory that nobody asked
for. Who cancels the job fails the requests that wait for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from app.children.work import JobProgress, ProgressCallback, until_over
from app.errors import Cancelled, PlacementError
from app.figures import percent, size_text
from app.models.description import ModelDescription
from app.progress import phase_words
from app.runs.trace import Origin
from app.serving import Serving, ServingWish
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import Placement, place_ranges, whole_on_one

DeployAsJob = Callable[[Placement, Origin, ProgressCallback], Awaitable[None]]
"""Has a job carry out a placement, unless the model answers when its turn has come. Cancelling the call cancels the
job, and waits until it has cleaned up. Raises why the job failed; Cancelled when somebody else cancelled it."""
Preparing = Callable[[str], None]
"""Told in a sentence what has to be done before a request can begin."""


@dataclass(eq=False)
class _Load:
    """A model on its way to a node, and who waits for it."""

    what: str
    waiting: list[Preparing] = field(default_factory=list)
    task: asyncio.Task[None] = field(init=False)

    def tell(self, what: str) -> None:
        self.what = what
        for preparing in self.waiting:
            preparing(what)


class RequestedLoads:
    """Belongs to the controller's loop.

    Args:
        capacities: what the nodes that take new work have free now, and how fast they are in a dtype.
    """

    def __init__(
        self, deploy: DeployAsJob, capacities: Callable[[str], Awaitable[Sequence[NodeCapacity]]]
    ) -> None:  # fmt: skip
        self._deploy, self._capacities = deploy, capacities
        self._loads: dict[str, _Load] = {}
        """By the model's name; one that is being ended is none of them."""

    async def load(self, description: ModelDescription, preparing: Preparing, origin: Origin) -> None:
        """Wait until a model is loaded whole on one node, or was deployed meanwhile by somebody else.

        Args:
            origin: who asks. The job is theirs who ask first.

        Raises:
            PlacementError: no node can hold it alone.
            Cancelled: somebody cancelled the job. Or what deploying raises.
        """
        name = description.name
        load = self._loads.get(name)
        if load is None:
            placement = await self._placed(description)
            load = self._loads.get(name) or self._begin(name, placement, origin)
        load.waiting.append(preparing)
        preparing(load.what)
        try:
            await asyncio.wait({load.task})
        except asyncio.CancelledError:
            load.waiting.remove(preparing)
            if not load.waiting:
                await self._end(name, load)
            raise
        load.task.result()

    async def _placed(self, description: ModelDescription) -> Placement:
        serving = ServingWish().completed(description.dtype, description.max_context)
        capacities = await self._capacities(serving.dtype)
        placement = whole_on_one(description, capacities, serving)
        if placement is None:
            raise PlacementError(
                f"{description.name} has no deployment, and no node can hold it alone. "
                + _too_small(description, capacities, serving),
                f"Deploy it over several nodes: deploy {description.name}",
            )
        return placement

    def _begin(self, name: str, placement: Placement, origin: Origin) -> _Load:
        load = self._loads[name] = _Load(f"Loading {name} on {placement.stages[0].node.name}")
        load.task = asyncio.get_running_loop().create_task(self._carry_out(load, placement, origin))
        load.task.add_done_callback(lambda task: self._forget(name, load))
        return load

    async def _carry_out(self, load: _Load, placement: Placement, origin: Origin) -> None:
        def told(progress: JobProgress) -> None:
            if progress.total_bytes and progress.phase in ("hashing", "sending"):
                load.tell(f"{phase_words(progress.phase)}, {percent(progress.done_bytes / progress.total_bytes)}")

        try:
            await self._deploy(placement, origin, told)
        except Cancelled as error:
            advice = "Send the request again to have it loaded once more."
            raise Cancelled(f"{placement.model_name} was not loaded: {error.message}", advice) from error

    async def _end(self, name: str, load: _Load) -> None:
        """Nobody waits for it any more. Returns when all that was loaded is freed."""
        self._forget(name, load)
        load.task.cancel()
        await until_over(load.task)
        if not load.task.cancelled():
            load.task.exception()  # how it ended is nobody's concern now; the job's record has it

    def _forget(self, name: str, load: _Load) -> None:
        if self._loads.get(name) is load:
            del self._loads[name]


def _too_small(description: ModelDescription, capacities: Sequence[NodeCapacity], serving: Serving) -> str:
    if not capacities:
        return "There is no node."
    lacks = []
    for capacity in capacities:
        everything = ((0, description.num_layers),)
        placement = place_ranges(description, (capacity,), everything, serving)
        stage = placement.stages[0]
        lacks.append(
            f"{capacity.name} (node {capacity.node_id}) needs {size_text(stage.memory)} and has "
            f"{size_text(capacity.free_memory)} free: {size_text(stage.missing)} are missing."
        )
    return " ".join(lacks)
