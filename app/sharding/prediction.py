"""How fast a placement would be: tokens per second and time to the first token. Pure: figures in, figures out.

A decode step reads every weight once, so a stage takes as long as its weights take to be read; a prompt is
bound by arithmetic. What each machine reads and computes is measured by its agent (`worker_agent/host/speed.py`);
the constants below were fitted to real runs (benchmarks/prediction.py).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, zip_longest
from math import ceil

from app.errors import BadInput
from app.models.description import COMPUTE_ITEM_BYTES, ModelDescription
from app.sharding.plan import check_ranges

STAGE_SECONDS = 0.0006
"""What a step costs a stage whatever it holds: taking it up, sampling, sending it on."""
LAYER_SECONDS = 0.00035
"""What a step costs a layer besides reading its matrices: norms, rotation, attention, and calling each of them."""
ACTIVATION_PASSES = 85
"""How many times its own size a token's hidden state is read or written within a layer: what a prompt costs besides
its products of matrices. That many elements at the speed at which weights are read."""
MESSAGE_SECONDS = 0.0004
"""One message between two agents of one machine."""
NETWORK_BYTES_PER_SECOND = 100e6
"""Of hidden states between machines: a gigabit line. Only long prompts send enough for it to matter."""
LOCAL_BYTES_PER_SECOND = 600e6
"""Of hidden states between agents of one machine: the encryption of every connection."""
HAND_OVER_SECONDS = 0.0002
"""What a step takes besides the way that a short message was measured to take: from the thread that computes to the one
that sends, and back."""
PROMPT_TOKENS = 256
"""Of the prompt for which is predicted where nobody names one."""
PROMPT_CHUNK = 256
"""Prompt tokens in one step (`app.inference.deployer.PREFILL_CHUNK`)."""
STREAMS = 32
"""Answers at once, where it is asked how many tokens come of all of them together."""


@dataclass(frozen=True)
class NodeSpeed:
    """What a node was measured to do in one compute dtype."""

    read_bytes_per_second: float
    """Of weights, in a step of one token."""
    flops_per_second: float
    """In a step of many tokens."""
    rtt: float = 0.0
    """Seconds from the controller to the node and back; stands for the distance between nodes too."""
    token_factor: float = 1.0
    """By what steps of few tokens are multiplied, since earlier runs took longer or shorter (`correction.py`)."""
    prompt_factor: float = 1.0
    """The same for prompts."""


@dataclass(frozen=True)
class LinkSpeed:
    """One direction of the link between two nodes, as their agents measured it (`worker_agent/host/probing.py`)."""

    rtt: float
    """Of a short message and its answer, seconds."""
    bytes_per_second: float


@dataclass(frozen=True)
class StagePrediction:
    """What is predicted of one stage by the formulas alone, before it is corrected. Seconds."""

    token: float
    """Of a step of one token."""
    prompt: float
    """Of computing the whole prompt."""
    way: float
    """Of a token to the next stage; 0 where there is one stage only."""
    speed: NodeSpeed
    link: LinkSpeed | None
    """What was measured of the way."""


@dataclass(frozen=True)
class Prediction:
    """What one sequence alone may expect."""

    tokens_per_second: float
    first_token_seconds: float
    """From the prompt's arrival at the first stage to the first new token."""
    prompt_tokens: int
    slowest_stage: int
    share: tuple[float, ...]
    """Of a token's time, what each stage takes; with `network_share` they add up to 1."""
    network_share: float
    assumed_hops: tuple[int, ...] = ()
    """Hops of which nothing was measured, by the stage that they begin at."""
    stages: tuple[StagePrediction, ...] = ()
    correction: float = 1.0
    """By what the time of a token was multiplied for what earlier runs took."""
    corrected_runs: int = 0
    """From how many runs that was learned; 0 where nothing was corrected."""


@dataclass(frozen=True)
class StageWork:
    """What a stage does for a step."""

    read_bytes: int
    """Weights that a step of one token reads: no embedding, which gives one row only."""
    parameters: int
    """That every token of a prompt is multiplied with: no head, which sees the last token only."""
    head_parameters: int
    """Of the head, where the stage has it."""
    layers: int
    kv_bytes: int
    """Keys and values of one token, as they are computed: kept in int8 they are read no faster, since floats are made
    of them first (benchmarks/kv_int8.py)."""
    state_bytes: int
    """What a sequence keeps besides, which each of its tokens reads."""


@dataclass(frozen=True)
class StepLoad:
    """What a step asks of a machine, whichever it is."""

    read_bytes: float
    flops: float
    seconds: float
    """That it takes on any."""

    def on(self, speed: NodeSpeed) -> float:
        """Seconds on a machine of this speed."""
        return self.read_bytes / speed.read_bytes_per_second + self.flops / speed.flops_per_second + self.seconds


class StageCosts:
    """What steps cost any stage of a model on any node, in seconds. Made once for a plan, which asks for many.

    Args:
        description: the model.
        dtype: the compute dtype, a key of COMPUTE_ITEM_BYTES.
        quantize: as Serving has it.
        context: how many tokens a sequence has by then, whose keys and values are read.
    """

    def __init__(
        self, description: ModelDescription, dtype: str, quantize: str = "none", context: int = PROMPT_TOKENS
    ) -> None:
        self._last, self._context = description.num_layers, context
        self.hidden_bytes = description.hidden_size * COMPUTE_ITEM_BYTES[dtype]
        """Of one token's hidden state, as it goes from stage to stage."""
        layers = description.layers
        ends = [part for kind in ("last", "tied") if (part := description.end(kind))]
        self._head = sum(part.memory(dtype) for part in ends), sum(part.parameters for part in ends)
        numbers = range(description.num_layers)
        self._read = _sums(part.memory(dtype, quantize) for part in layers)
        self._parameters = _sums(part.parameters for part in layers)
        self._kv = _sums(description.kv_bytes_per_token(dtype, each, each + 1) for each in numbers)
        self._states = _sums(description.state_bytes_per_sequence(dtype, each, each + 1) for each in numbers)

    def token(self, start: int, end: int, speed: NodeSpeed) -> float:
        """A step of one token through the layers [start, end); the last layer brings the head with it."""
        return self.token_of(self.work(start, end), speed)

    def token_of(self, work: StageWork, speed: NodeSpeed) -> float:
        """The same of work that is known already."""
        return self.token_load(work).on(speed) * speed.token_factor

    def token_load(self, work: StageWork) -> StepLoad:
        """A step of one token."""
        read = work.read_bytes + work.kv_bytes * self._context + work.state_bytes
        return StepLoad(read, 0.0, work.layers * LAYER_SECONDS + STAGE_SECONDS)

    def step_of(self, work: StageWork, speed: NodeSpeed, rows: float) -> float:
        """A step of one token each for `rows` sequences, which reads the weights once, as a prompt's step does."""
        return self.step_load(work, rows).on(speed) * speed.token_factor

    def step_load(self, work: StageWork, rows: float) -> StepLoad:
        """The same, whatever the machine."""
        chunk = _chunk_load(work, rows, self.hidden_bytes)
        return StepLoad(
            chunk.read_bytes + rows * (work.kv_bytes * self._context + work.state_bytes),
            chunk.flops + rows * 2 * work.head_parameters,
            chunk.seconds,
        )

    def work(self, start: int, end: int) -> StageWork:
        """What the stage [start, end) does; nothing for an empty one. Neighbours' adds up to that of both as one."""
        head_bytes, head_parameters = self._head if end == self._last else (0, 0)
        return StageWork(
            read_bytes=self._read[end] - self._read[start] + head_bytes,
            parameters=self._parameters[end] - self._parameters[start],
            head_parameters=head_parameters,
            layers=end - start,
            kv_bytes=self._kv[end] - self._kv[start],
            state_bytes=self._states[end] - self._states[start],
        )


def predict(
    description: ModelDescription,
    stages: Sequence[tuple[int, int, NodeSpeed]],
    *,
    dtype: str,
    quantize: str = "none",
    same_machine: bool | Sequence[bool] = False,
    links: Sequence[LinkSpeed | None] = (),
    way_factors: Sequence[float] = (),
    prompt_tokens: int = PROMPT_TOKENS,
) -> Prediction:
    """Predict the speed of one sequence alone in a pipeline.

    A token takes `sum over stages (read bytes / read speed + layers * LAYER_SECONDS + STAGE_SECONDS) + sum over
    hops`, where the bytes are those of the stage's matrices in the compute dtype and of the keys and values of
    the prompt. There are as many hops as stages, since the last one sends its token to the first (none for one
    stage). A hop takes half a measured round trip and `HAND_OVER_SECONDS`; where none was measured, half of the
    controller's round trip between machines, `MESSAGE_SECONDS` within one.

    A prompt takes `sum over stages (2 * parameters * tokens / flops + (read bytes + activations) / read speed)` and
    the same fixed costs, plus hops that carry `tokens * hidden size` elements; activations are
    `ACTIVATION_PASSES * layers * tokens * hidden size` elements. Longer ones go in chunks of PROMPT_CHUNK tokens: on
    one machine one after another, on several at once, where each further chunk costs what the slowest stage takes.

    Args:
        description: the model.
        stages: `(start, end, speed)` in pipeline order, all layers.
        dtype: the compute dtype, a key of COMPUTE_ITEM_BYTES.
        quantize: as Serving has it.
        same_machine: for each hop, from stage k to k + 1 and last from the last stage to the first, whether
            both ends are on one machine; one value stands for all.
        links: for each hop what was measured of it; None, or nothing at all, where that is not known.
        way_factors: for each hop by what it is multiplied, since earlier runs took longer or shorter; without them 1.
        prompt_tokens: how long the prompt is.

    Raises:
        BadInput: the stages are not all layers in order, or the figures make no sense.
    """
    check_ranges([(start, end) for start, end, _ in stages], description)
    local = _hops(len(stages), same_machine)
    if prompt_tokens < 1 or any(s.read_bytes_per_second <= 0 or s.flops_per_second <= 0 for _, _, s in stages):
        raise BadInput("A prediction needs a prompt of at least one token and speeds above zero.")
    speeds = [speed for _, _, speed in stages]
    costs = StageCosts(description, dtype, quantize, prompt_tokens)
    work = [costs.work(start, end) for start, end, _ in stages]
    steps = [costs.token(*stage) for stage in stages]
    known = [links[hop] if hop < len(links) else None for hop in range(len(local))]
    ways = [
        hop_seconds(speed, following, here, link)
        for speed, following, here, link in zip(speeds, [*speeds[1:], speeds[0]], local, known, strict=False)
    ]
    waits = [way * factor for way, factor in zip_longest(ways, way_factors[: len(ways)], fillvalue=1.0)]
    total, network = sum(steps) + sum(waits), sum(waits)
    chunk = min(prompt_tokens, PROMPT_CHUNK)
    loads = [_chunk_load(each, chunk, costs.hidden_bytes) for each in work]
    computing = [load.on(speed) for load, speed in zip(loads, speeds, strict=True)]
    told = tuple(
        StagePrediction(step / speed.token_factor, prompt * prompt_tokens / chunk, way, speed, link)
        for step, prompt, way, speed, link in zip(steps, computing, ways or [0.0], speeds, known or [None], strict=True)
    )
    corrected = [prompt * speed.prompt_factor for prompt, speed in zip(computing, speeds, strict=True)]
    return Prediction(
        tokens_per_second=1 / total,
        first_token_seconds=_prompt_seconds(costs.hidden_bytes, corrected, local, known, waits, prompt_tokens),
        prompt_tokens=prompt_tokens,
        slowest_stage=max(range(len(steps)), key=steps.__getitem__),
        share=tuple(step / total for step in steps),
        network_share=network / total,
        assumed_hops=tuple(hop for hop, link in enumerate(known) if link is None),
        stages=told,
        correction=total / sum(stage.token + stage.way for stage in told),
    )


def lanes_of(machines: int) -> int:
    """How many steps are in flight at once, of STREAMS answers on so many machines."""
    return min(machines, STREAMS)


def rows_of(machines: int) -> float:
    """How many sequences share a step then."""
    return STREAMS / lanes_of(machines)


def seconds_in_all(steps: Sequence[float], waits: Sequence[float], machines: Sequence[str]) -> float:
    """What a token takes when STREAMS answers are under way: the time of a lane's round, divided by all its tokens.

    As many lanes are in flight as there are machines, and no more than answers. None comes round faster than a step
    goes through all stages, and all together not faster than the slowest machine lets each of them pass; agents of one
    machine share its cores.

    Args:
        steps: what a step of `rows_of(machines)` rows takes each stage alone (`StageCosts.step_of`).
        waits: of each hop.
        machines: of each stage, by name.
    """
    agents = Counter(machines)
    lanes = lanes_of(len(agents))
    slowest = max(step * agents[machine] for step, machine in zip(steps, machines, strict=True))
    return max(lanes * slowest, sum(steps) + sum(waits)) / STREAMS


def speed_of(capacities: Mapping[str, object], dtype: str, rtt: float | None) -> NodeSpeed | None:
    """A node's speed from what the registry keeps of it; None when its agent has not measured this dtype."""
    speeds = capacities.get("speeds")
    for speed in speeds if isinstance(speeds, list | tuple) else ():
        if isinstance(speed, Mapping) and speed.get("dtype") == dtype:
            read, flops = speed.get("read_bytes_per_second"), speed.get("flops_per_second")
            if isinstance(read, int | float) and isinstance(flops, int | float) and read > 0 and flops > 0:
                return NodeSpeed(float(read), float(flops), max(0.0, rtt or 0.0))
    return None


def _sums(values: Iterable[int]) -> list[int]:
    """What the first n of them make together, for each n from 0 on."""
    return list(accumulate(values, initial=0))


def _hops(stages: int, same_machine: bool | Sequence[bool]) -> tuple[bool, ...]:
    """For each hop whether it stays on one machine; a single stage has none."""
    count = stages if stages > 1 else 0
    if isinstance(same_machine, bool):
        return (same_machine,) * count
    if len(same_machine) < count:
        raise BadInput(f"{stages} stages have {count} hops, and {len(same_machine)} are described.")
    return tuple(same_machine[:count])


def _chunk_load(work: StageWork, tokens: float, hidden_bytes: int) -> StepLoad:
    """A step of many tokens, whatever sequences they are of; without the head."""
    return StepLoad(
        work.read_bytes + ACTIVATION_PASSES * work.layers * tokens * hidden_bytes,
        2 * work.parameters * tokens,
        work.layers * LAYER_SECONDS + STAGE_SECONDS,
    )


def hop_seconds(one: NodeSpeed, other: NodeSpeed, same_machine: bool, link: LinkSpeed | None) -> float:
    """One way, of a token. Unmeasured, the farther of the two from the controller tells how far apart they are."""
    if link is not None:
        return link.rtt / 2 + HAND_OVER_SECONDS
    return MESSAGE_SECONDS if same_machine else max(MESSAGE_SECONDS, max(one.rtt, other.rtt) / 2)


def _prompt_seconds(
    hidden_bytes: int,
    computing: Sequence[float],
    local: Sequence[bool],
    links: Sequence[LinkSpeed | None],
    waits: Sequence[float],
    tokens: int,
) -> float:
    """Args: computing: what a chunk takes each stage."""
    chunk = min(tokens, PROMPT_CHUNK)
    chunks = ceil(tokens / chunk)
    # The last hop carries one token, not its hidden state.
    carrying = [chunk * hidden_bytes / _rate(here, link) for here, link in zip(local[:-1], links[:-1], strict=True)]
    once = sum(computing) + sum(waits) + sum(carrying)
    if all(local):
        return once * tokens / chunk
    return once + (chunks - 1) * max(*computing, *carrying)


def _rate(same_machine: bool, link: LinkSpeed | None) -> float:
    """Bytes of hidden states per second."""
    if link is not None:
        return link.bytes_per_second
    return LOCAL_BYTES_PER_SECOND if same_machine else NETWORK_BYTES_PER_SECOND
