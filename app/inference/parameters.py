"""What a user may ask of a generation, checked once, where it comes in.

Names and meanings are those of the OpenAI API and of vLLM. The default is greedy. Sampling without a seed gets a random
one at once, so that what was asked for and what is recorded can always be run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import msgspec

from app.errors import PromptTooLong, RequestError
from app.inference.constraint import Constraint
from worker_agent.messages import Budget, Sampling

DEFAULT_MAX_TOKENS = 512
MAX_STOP_STRINGS = 32
MAX_STOP_CHARACTERS = 500
MAX_LOGIT_BIASES = 2048
MAX_LOGPROBS = 100
MAX_SEED = 2**63 - 1
MAX_TOKENS = 2**31 - 1


class GenerationParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checked when it is made. Raises RequestError with the parameter's name, the value and what is allowed."""

    temperature: float = 0.0
    """0 is greedy: always the likeliest token."""
    top_k: int = 0
    """Only the k likeliest tokens; 0 means all."""
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    """Token id -> what is added to its logit."""
    seed: int | None = None
    """Chosen at random when temperature is above 0 and none is given."""
    stop: tuple[str, ...] = ()
    """The text ends before the first of these."""
    max_tokens: int | None = DEFAULT_MAX_TOKENS
    """None: as many as the context holds."""
    min_tokens: int = 0
    """No end of text before so many tokens."""
    ignore_eos: bool = False
    logprobs: int | None = None
    """0: the chosen token's log probability; n: besides, those of the n likeliest."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt, all but the first."""
    constraint: Constraint | None = None
    """What the answer has to look like."""

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0, 100)
        _check_range("top_p", self.top_p, 0, 1, above=True)
        _check_range("min_p", self.min_p, 0, 1)
        _check_range("repetition_penalty", self.repetition_penalty, 0, 100, above=True)
        _check_range("presence_penalty", self.presence_penalty, -100, 100)
        _check_range("frequency_penalty", self.frequency_penalty, -100, 100)
        _check_integer("top_k", self.top_k, 0, MAX_TOKENS)
        _check_integer("min_tokens", self.min_tokens, 0, MAX_TOKENS)
        for name, value, least, most in (
            ("seed", self.seed, 0, MAX_SEED),
            ("max_tokens", self.max_tokens, 1, MAX_TOKENS),
            ("logprobs", self.logprobs, 0, MAX_LOGPROBS),
            ("prompt_logprobs", self.prompt_logprobs, 0, MAX_LOGPROBS),
        ):
            if value is not None:
                _check_integer(name, value, least, most)
        if self.max_tokens is not None and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}, which is more than max_tokens, {self.max_tokens}.",
                "Lower min_tokens or raise max_tokens.",
            )
        _check_stops(self.stop)
        _check_biases(self.logit_bias)
        if self.temperature > 0 and self.seed is None:
            msgspec.structs.force_setattr(self, "seed", secrets.randbelow(2**32))

    @classmethod
    def from_json(cls, values: object) -> GenerationParameters:
        """Read what `to_json` gave, or what a user wrote as JSON. Raises RequestError."""
        if isinstance(values, dict) and isinstance(values.get("stop"), str):
            values = values | {"stop": [values["stop"]]}
        try:
            return msgspec.convert(values, cls, str_keys=True)
        except msgspec.ValidationError as error:
            raise RequestError(f"The sampling parameters cannot be used: {error}.", _ADVICE) from error

    def to_json(self) -> dict[str, Any]:
        """All parameters as JSON's types, for the registry; `from_json` gives an equal object back."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return values

    def sampling(self, vocab_size: int | None = None) -> Sampling:
        """How the last stage chooses a token. Raises RequestError when a bias is of no token of the vocabulary."""
        if vocab_size is not None and (outside := [t for t in self.logit_bias if t >= vocab_size]):
            raise RequestError(
                f"logit_bias names token {outside[0]}; the model has tokens 0 to {vocab_size - 1}.", _ADVICE
            )
        return Sampling(
            temperature=float(self.temperature),
            top_k=self.top_k,
            top_p=float(self.top_p),
            min_p=float(self.min_p),
            repetition_penalty=float(self.repetition_penalty),
            presence_penalty=float(self.presence_penalty),
            frequency_penalty=float(self.frequency_penalty),
            logit_bias={token: float(bias) for token, bias in self.logit_bias.items()},
            seed=self.seed or 0,
            logprobs=-1 if self.logprobs is None else self.logprobs,
            prompt_logprobs=-1 if self.prompt_logprobs is None else self.prompt_logprobs,
            constraint=None if self.constraint is None else self.constraint.wire().name,
        )

    def budget(self, eos_ids: Sequence[int], prompt_tokens: int, context: int) -> Budget:
        """When the sequence ends: never past the context, whatever `max_tokens` says.

        Raises RequestError when the prompt is empty or leaves no room for a single token.
        """
        if prompt_tokens < 1:
            raise RequestError("The prompt has no tokens.", "Give at least one token, or a prompt that is not empty.")
        room = context - prompt_tokens
        if room < 1:
            raise PromptTooLong(
                f"The prompt has {prompt_tokens} tokens; the context holds {context}, and the answer needs one more.",
                "Shorten the prompt, or deploy the model with a longer context.",
            )
        most = room if self.max_tokens is None else min(self.max_tokens, room)
        eos = () if self.ignore_eos else tuple(eos_ids)
        return Budget(max_tokens=most, eos=eos, min_tokens=min(self.min_tokens, most))


_ADVICE = "Change the parameter and send the request again."


def _check_range(name: str, value: float, least: float, most: float, *, above: bool = False) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (least <= value <= most) or (above and value == least):
        allowed = f"above {least} and at most {most}" if above else f"from {least} to {most}"
        raise RequestError(f"{name} is {value!r}; allowed is a number {allowed}.", _ADVICE)


def _check_integer(name: str, value: int, least: int, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError(f"{name} is {value!r}; allowed is a whole number from {least} to {most}.", _ADVICE)


def _check_stops(stops: tuple[str, ...]) -> None:
    if not isinstance(stops, tuple):
        raise RequestError(f"stop is {stops!r}; allowed is a tuple of texts.", _ADVICE)
    if len(stops) > MAX_STOP_STRINGS:
        raise RequestError(f"stop holds {len(stops)} texts; allowed are at most {MAX_STOP_STRINGS}.", _ADVICE)
    for stop in stops:
        if not isinstance(stop, str) or not 1 <= len(stop) <= MAX_STOP_CHARACTERS:
            shown = repr(stop) if len(repr(stop)) <= 60 else f"{repr(stop)[:60]}…"
            raise RequestError(
                f"stop holds {shown}; allowed is a text of 1 to {MAX_STOP_CHARACTERS} characters.", _ADVICE
            )


def _check_biases(biases: dict[int, float]) -> None:
    if len(biases) > MAX_LOGIT_BIASES:
        raise RequestError(f"logit_bias holds {len(biases)} tokens; allowed are at most {MAX_LOGIT_BIASES}.", _ADVICE)
    for token, bias in biases.items():
        _check_integer("A token id in logit_bias", token, 0, MAX_TOKENS)
        _check_range(f"logit_bias of token {token}", bias, -100, 100)
