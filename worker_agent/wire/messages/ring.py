"""Sequences and the data plane: what starts a sequence and what goes round the ring for each step."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import (
    U32,
    U63,
    Call,
    Digest,
    Id,
    Name,
    Position,
    SequenceNumber,
    TensorFrame,
    Text,
    TokenId,
)
from worker_agent.wire.messages.recovery import Shared


class Sampling(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """How the last stage chooses a token. Defaults are greedy. Terms are the OpenAI API's and vLLM's.

    Order: logit bias, repetition, presence and frequency penalties, what may not come, constraint, temperature, top-k,
    top-p, min-p, typical-p, epsilon and eta cutoffs. Those that the OpenAI API and vLLM lack are transformers'.
    """

    temperature: Annotated[float, Meta(ge=0, le=100)] = 0.0
    top_k: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    top_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    min_p: Annotated[float, Meta(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Meta(gt=0, le=100)] = 1.0
    presence_penalty: Annotated[float, Meta(ge=-100, le=100)] = 0.0
    frequency_penalty: Annotated[float, Meta(ge=-100, le=100)] = 0.0
    logit_bias: Annotated[dict[TokenId, float], Meta(max_length=2048)] = msgspec.field(default_factory=dict)
    seed: U63 = 0
    logprobs: Annotated[int, Meta(ge=-1, le=100)] = -1
    """-1: none; 0: the chosen token's; n: besides, those of the n likeliest."""
    prompt_logprobs: Annotated[int, Meta(ge=-1, le=100)] = -1
    """The same for the tokens of the prompt, all but the first."""
    constraint: Digest | None = None
    """The name of the grammar to follow; `Constrain` has made it known to the last stage's agent."""
    typical_p: Annotated[float, Meta(gt=0, le=1)] = 1.0
    epsilon_cutoff: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    eta_cutoff: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    no_repeat_ngram_size: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    suppress_tokens: Annotated[tuple[TokenId, ...], Meta(max_length=2048)] = ()
    begin_suppress_tokens: Annotated[tuple[TokenId, ...], Meta(max_length=2048)] = ()
    """Not as the first token of the answer."""
    bad_words_ids: Annotated[
        tuple[Annotated[tuple[TokenId, ...], Meta(min_length=1, max_length=64)], ...], Meta(max_length=256)
    ] = ()
    """Sequences of tokens that may not be completed."""

    @property
    def needs_order(self) -> bool:
        """Whether the tokens so far matter in their order."""
        return self.no_repeat_ngram_size > 0 or any(len(word) > 1 for word in self.bad_words_ids)

    @property
    def looks_back(self) -> bool:
        """Whether the last stage needs the prompt's tokens."""
        penalized = self.repetition_penalty != 1 or self.presence_penalty != 0 or self.frequency_penalty != 0
        return penalized or self.prompt_logprobs >= 0 or self.needs_order


class Budget(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """When a sequence ends by itself."""

    max_tokens: Annotated[int, Meta(ge=1, le=2**31 - 1)]
    eos: Annotated[tuple[TokenId, ...], Meta(max_length=256)] = ()
    """The model's ends of text; a grammar knows them as such."""
    stops: Annotated[tuple[TokenId, ...], Meta(max_length=256)] = ()
    """Further tokens that end this answer, whatever they mean elsewhere."""
    min_tokens: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0


class Start(Call, tag="start", kw_only=True, frozen=True):
    """Run a sequence; to the first stage. Payload: frame 0 its token ids (int32).

    `prompt_tokens` of them are the prompt; the rest were generated before (recovery), so that penalties
    and `position` in sampling go on where they were. Answered by Done when the scheduler has queued it.
    """

    deployment: Id
    epoch: U63
    sequence: SequenceNumber
    prompt_tokens: Position
    sampling: Sampling
    budget: Budget
    tokens: TensorFrame
    group: Name = ""
    """Only prompts of one group may begin with each other's tokens: how long the first token takes tells whether
    somebody sent these before."""
    resumed: bool = False
    """Whether it ran before, here or elsewhere: no new work, which a draining agent takes as well."""
    held: Position = 0
    """So many of its first tokens are in the states of all stages: what `Link.resumed` says of it."""


MAX_CAUGHT_UP = 1024
"""Sequences in one CatchUp at most."""


class Cancel(Call, tag="cancel", kw_only=True, frozen=True):
    """End a sequence and free its KV on every stage; to the first stage. Answered by Done, also if unknown."""

    deployment: Id
    epoch: U63
    sequence: SequenceNumber


MAX_LOOKED_BACK = 150_000
"""Tokens of a sequence that go to the last stage to be looked back at: they share an envelope of 1 MiB."""


class Admission(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What every later stage must know of a sequence, sent along with its first piece.

    And with the first piece after a Link that resumed it: its state is there, and the last stage samples from here on.
    """

    tokens: Annotated[tuple[TokenId, ...], Meta(max_length=MAX_LOOKED_BACK)]
    """Token ids that penalties, scores and a grammar look back at; empty where none does."""
    prompt_tokens: Position
    """How long the prompt is; generation position p means token number prompt_tokens + p."""
    total_tokens: Position
    """How many tokens `Start` brought; sampling begins after the last of them."""
    sampling: Sampling
    budget: Budget
    shared: Shared | None = None


class Piece(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """The tokens of one sequence in a step: `count` tokens from `position` on. What it had further on is forgotten."""

    sequence: SequenceNumber
    position: Position
    count: Annotated[int, Meta(ge=1, le=65536)]
    sample: bool
    """Whether a token is sampled after this piece (not for an inner chunk of a prompt)."""
    admission: Admission | None = None


class StageTime(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Where one step's time went on one stage, in microseconds."""

    stage: U32
    queue_us: U63
    compute_us: U63


class Step(Struct, tag="step", array_like=True, forbid_unknown_fields=True, frozen=True):
    """One ragged batch on its way down the pipeline, from stage k to k + 1.

    Payload: frame 0 the hidden states [tokens, hidden]; frame 1, for the models that need them on every
    stage, the token ids [tokens] as int32.
    """

    deployment: Id
    plan: Id
    epoch: U63
    step: U63
    stage: U32
    """The stage this step is for."""
    boot: Id
    """The sender's boot id."""
    pieces: Annotated[tuple[Piece, ...], Meta(max_length=4096)]
    released: Annotated[tuple[SequenceNumber, ...], Meta(max_length=4096)]
    """Sequences whose state is of no use any more: free it before running. A step may hold nothing else."""
    tensors: Annotated[tuple[TensorFrame, ...], Meta(max_length=2)]
    oldest: U63 = 0
    """The oldest step that the first stage has not seen come round; what older ones brought may be forgotten."""
    alone: bool = False
    """Whether no other step of this deployment is in flight, so that agents on one machine may lend their cores."""
    times: Annotated[tuple[StageTime, ...], Meta(max_length=1024)] = ()
    """Where the time went on the stages before."""
    kept: Annotated[tuple[SequenceNumber, ...], Meta(max_length=4096)] = ()
    """Sequences that have ended; their state stays for prompts that begin with the same tokens."""
    aside: Annotated[tuple[SequenceNumber, ...], Meta(max_length=4096)] = ()
    """Sequences that yield to others: their state leaves the pool until a piece of them comes again."""


class TopToken(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    token: TokenId
    logprob: float


Finish = Literal["", "eos", "length", "constraint", "barred", "numbers"]
"""How a sequence ends. With `barred` (the parameters leave no token) and `numbers` (the logits are no numbers) none was
chosen: `Token.token` means nothing then."""


class Token(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """One sampled token of one sequence."""

    sequence: SequenceNumber
    position: Position
    """The index of this token in the whole sequence, prompt included."""
    token: TokenId
    finish: Finish = ""
    logprob: float | None = None
    top: Annotated[tuple[TopToken, ...], Meta(max_length=100)] = ()


class ScoredToken(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """A token of a prompt, its log probability, and the likeliest in its place."""

    token: TokenId
    logprob: float
    top: Annotated[tuple[TopToken, ...], Meta(max_length=100)] = ()


class Scored(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """Tokens of a sequence's prompt from `position` on, in order."""

    sequence: SequenceNumber
    position: Position
    tokens: Annotated[tuple[ScoredToken, ...], Meta(max_length=4096)]


class Tokens(Struct, tag="tokens", array_like=True, forbid_unknown_fields=True, frozen=True):
    """What a step brought: from the last stage to the first and to the controller.

    `prefilled` tells how many tokens of a prompt are in the cache, for pieces that sampled nothing.
    """

    deployment: Id
    epoch: U63
    step: U63
    tokens: Annotated[tuple[Token, ...], Meta(max_length=4096)]
    prefilled: Annotated[tuple[tuple[SequenceNumber, Position], ...], Meta(max_length=4096)] = ()
    times: Annotated[tuple[StageTime, ...], Meta(max_length=1024)] = ()
    """Where the time went on every stage."""
    scored: Annotated[tuple[Scored, ...], Meta(max_length=4096)] = ()
    """Of prompts whose log probabilities were asked for."""
    cached: Annotated[tuple[tuple[SequenceNumber, Position], ...], Meta(max_length=4096)] = ()
    """Of sequences that began with this step: how many of their tokens an earlier one had left."""


class CatchUp(Call, tag="catch_up", kw_only=True, frozen=True):
    """What have these sequences brought, from these positions on? To the first stage; answered by CaughtUp.

    For who may have missed some of it: a connection broke, or another controller process has taken over. From then on
    the agent tells the asker what there is to tell of the deployment; for that it may go, without sequences, to every
    stage.
    """

    deployment: Id
    epoch: U63
    stage: U32 = 0
    sequences: Annotated[tuple[tuple[SequenceNumber, Position, Position], ...], Meta(max_length=MAX_CAUGHT_UP)] = ()
    """For each the index of the next token that the asker wants, and of the next one of the prompt whose log
    probability it wants (beyond the prompt: none)."""


class Produced(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What the first stage knows of a sequence's answer."""

    sequence: SequenceNumber
    known: bool
    """Whether it is under way here, or ended not long ago; else it has been forgotten, or never came."""
    tokens: Annotated[tuple[Token, ...], Meta(max_length=65536)] = ()
    """From the position that was asked for on; there may be more."""
    scored: Annotated[tuple[Scored, ...], Meta(max_length=1)] = ()
    cached: Position = 0
    """How many of its tokens an earlier one had left."""


class CaughtUp(Call, tag="caught_up", kw_only=True, frozen=True):
    """What sequences have brought; of as many, in the order of the question, as an envelope holds."""

    sequences: Annotated[tuple[Produced, ...], Meta(max_length=MAX_CAUGHT_UP)]


class StageFault(Struct, tag="stage_fault", kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A stage cannot go on with these sequences (all of the deployment's when empty). To the controller.

    With `goes_on` these alone are lost; the stage runs the others as before, and needs no Link.
    """

    deployment: Id
    epoch: U63
    stage: U32
    kind: Name
    message: Text
    sequences: Annotated[tuple[SequenceNumber, ...], Meta(max_length=4096)] = ()
    goes_on: bool = False
