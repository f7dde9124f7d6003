"""What a user may ask of a generation, checked once, where it comes in.

Names and meanings are those of the OpenAI API, of vLLM and of transformers. What is left unset is as the model's own
generation_config.json has it (`model_defaults.py`), else neutral and greedy: `resolved` settles that, once for each
request. Sampling without a seed gets a random one at once, so that what was asked for and what is recorded can always
be run again.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from app.errors import PromptTooLong, RequestError
from app.inference.constraint import Constraint
from app.inference.template_variables import check_variables
from app.inference.text_stream import TextRules
from worker_agent.wire.messages import Budget, Sampling

DEFAULT_MAX_TOKENS = 512
MAX_STOP_STRINGS = 32
MAX_STOP_CHARACTERS = 500
MAX_STOP_TOKENS = 256
MAX_LOGIT_BIASES = 2048
MAX_SUPPRESSED = 2048
MAX_BAD_WORDS = 256
MAX_BAD_WORD_TOKENS = 64
MAX_LOGPROBS = 100
MAX_SEED = 2**63 - 1
MAX_TOKENS = 2**31 - 1

T = TypeVar("T")

NEUTRAL: Mapping[str, Any] = {
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "repetition_penalty": 1.0,
    "no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
    "stop": (),
    "max_tokens": DEFAULT_MAX_TOKENS,
    "min_tokens": 0,
}
"""What may be left unset, and what it is where the model says nothing of it."""


class GenerationParameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Checked when it is made. Raises RequestError with the parameter's name, the value and what is allowed."""

    temperature: float | UnsetType = UNSET
    """0 is greedy: always the likeliest token."""
    top_k: int | UnsetType = UNSET
    """Only the k likeliest tokens; 0 means all."""
    top_p: float | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    typical_p: float | UnsetType = UNSET
    epsilon_cutoff: float | UnsetType = UNSET
    eta_cutoff: float | UnsetType = UNSET
    repetition_penalty: float | UnsetType = UNSET
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int | UnsetType = UNSET
    """No sequence of so many tokens comes twice; 0: any may."""
    logit_bias: dict[int, float] = {}
    """Token id -> what is added to its logit."""
    bad_words_ids: tuple[tuple[int, ...], ...] | UnsetType = UNSET
    """Sequences of tokens that may not come."""
    suppress_tokens: tuple[int, ...] | UnsetType = UNSET
    begin_suppress_tokens: tuple[int, ...] | UnsetType = UNSET
    """Not as the answer's first token."""
    seed: int | None = None
    """Chosen at random when temperature is above 0 and none is given."""
    stop: tuple[str, ...] | UnsetType = UNSET
    """The text ends before the first of these."""
    stop_token_ids: tuple[int, ...] = ()
    """The answer ends with the first of these, besides the model's own ends."""
    include_stop_str_in_output: bool = False
    """The text that ends the answer belongs to it."""
    skip_special_tokens: bool = True
    """The text is without special tokens."""
    max_tokens: int | UnsetType | None = UNSET
    """None: as many as the context holds."""
    min_tokens: int | UnsetType = UNSET
    """No end of text before so many tokens."""
    ignore_eos: bool = False
    """The model's own ends do not end the answer."""
    logprobs: int | None = None
    """0: the chosen token's log probability; n: besides, those of the n likeliest."""
    prompt_logprobs: int | None = None
    """The same for the tokens of the prompt, all but the first."""
    constraint: Constraint | None = None
    """What the answer has to look like."""
    chat_template_kwargs: dict[str, Any] = {}
    """What the model's chat template gets besides the conversation, `enable_thinking` for one."""

    def __post_init__(self) -> None:
        for name, least, most, above in (
            ("temperature", 0, 100, False),
            ("top_p", 0, 1, True),
            ("min_p", 0, 1, False),
            ("typical_p", 0, 1, True),
            ("repetition_penalty", 0, 100, True),
            ("presence_penalty", -100, 100, False),
            ("frequency_penalty", -100, 100, False),
        ):
            _check_range(name, getattr(self, name), least, most, above=above)
        for name in ("epsilon_cutoff", "eta_cutoff"):
            _check_range(name, getattr(self, name), 0, 1, below=True)
        for name, lowest, highest in (
            ("top_k", 0, MAX_TOKENS),
            ("no_repeat_ngram_size", 0, MAX_TOKENS),
            ("min_tokens", 0, MAX_TOKENS),
            ("seed", 0, MAX_SEED),
            ("max_tokens", 1, MAX_TOKENS),
            ("logprobs", 0, MAX_LOGPROBS),
            ("prompt_logprobs", 0, MAX_LOGPROBS),
        ):
            if getattr(self, name) is not None:
                _check_integer(name, getattr(self, name), lowest, highest)
        if isinstance(self.max_tokens, int) and isinstance(self.min_tokens, int) and self.min_tokens > self.max_tokens:
            raise RequestError(
                f"min_tokens is {self.min_tokens}, which is more than max_tokens, {self.max_tokens}.",
                "Lower min_tokens or raise max_tokens.",
            )
        if self.stop is not UNSET:
            _check_stops(self.stop)
        _check_tokens("stop_token_ids", self.stop_token_ids, MAX_STOP_TOKENS)
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            if getattr(self, name) is not UNSET:
                _check_tokens(name, getattr(self, name), MAX_SUPPRESSED)
        if self.bad_words_ids is not UNSET:
            _check_bad_words(self.bad_words_ids)
        _check_biases(self.logit_bias)
        check_variables(self.chat_template_kwargs)
        if self.temperature is not UNSET and self.temperature > 0 and self.seed is None:
            msgspec.structs.force_setattr(self, "seed", secrets.randbelow(2**32))

    def resolved(self, defaults: Mapping[str, Any] | None = None) -> GenerationParameters:
        """With nothing left unset: the model's defaults, JSON's types by name, in its place, else what is neutral."""
        own = self.to_json()
        filled = {name: value for name, value in {**NEUTRAL, **(defaults or {})}.items() if name not in own}
        if not filled:
            return self
        most = own.get("max_tokens", filled.get("max_tokens"))
        if "min_tokens" in filled and most is not None:
            filled["min_tokens"] = min(filled["min_tokens"], most)  # the model's wish gives way
        return GenerationParameters.from_json({**own, **filled})

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
        """What is set as JSON's types, for the registry; `from_json` gives an equal object back."""
        values: dict[str, Any] = msgspec.to_builtins(self, str_keys=True)
        return values

    def text_rules(self) -> TextRules:
        """How the answer's tokens become its text."""
        own = self.resolved()
        return TextRules(
            stops=_set(own.stop),
            include_stop=self.include_stop_str_in_output,
            skip_special=self.skip_special_tokens,
            min_tokens=_set(own.min_tokens),
        )

    def sampling(self, vocab_size: int | None = None) -> Sampling:
        """How the last stage chooses a token. Raises RequestError for a token that is not of the vocabulary."""
        own = self.resolved()
        if vocab_size is not None:
            self._check_vocabulary(vocab_size)
        return Sampling(
            temperature=float(_set(own.temperature)),
            top_k=_set(own.top_k),
            top_p=float(_set(own.top_p)),
            min_p=float(_set(own.min_p)),
            typical_p=float(_set(own.typical_p)),
            epsilon_cutoff=float(_set(own.epsilon_cutoff)),
            eta_cutoff=float(_set(own.eta_cutoff)),
            repetition_penalty=float(_set(own.repetition_penalty)),
            presence_penalty=float(self.presence_penalty),
            frequency_penalty=float(self.frequency_penalty),
            no_repeat_ngram_size=_set(own.no_repeat_ngram_size),
            logit_bias={token: float(bias) for token, bias in self.logit_bias.items()},
            bad_words_ids=_set(own.bad_words_ids),
            suppress_tokens=_set(own.suppress_tokens),
            begin_suppress_tokens=_set(own.begin_suppress_tokens),
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
        own = self.resolved()
        longest = _set(own.max_tokens)
        most = room if longest is None else min(longest, room)
        eos = () if self.ignore_eos else tuple(eos_ids)
        return Budget(max_tokens=most, eos=eos, stops=self.stop_token_ids, min_tokens=min(_set(own.min_tokens), most))

    def _check_vocabulary(self, vocab_size: int) -> None:
        for name in ("logit_bias", "stop_token_ids", "suppress_tokens", "begin_suppress_tokens", "bad_words_ids"):
            named = getattr(self, name)
            if named is UNSET:
                continue
            tokens = chain.from_iterable(named) if name == "bad_words_ids" else named
            outside = [token for token in tokens if token >= vocab_size]
            if outside:
                raise RequestError(
                    f"{name} names token {outside[0]}; the model has tokens 0 to {vocab_size - 1}.", _ADVICE
                )


def _set(value: T | UnsetType) -> T:
    """The value of a field that `resolved` has set."""
    assert not isinstance(value, UnsetType)
    return value


_ADVICE = "Change the parameter and send the request again."


def _check_range(
    name: str, value: float | UnsetType, least: float, most: float, *, above: bool = False, below: bool = False
) -> None:
    if value is UNSET:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (least <= value <= most) or (above and value == least) or (below and value == most):
        lowest = f"above {least}" if above else f"from {least}"
        allowed = f"{lowest} and at most {most}" if above else f"{lowest} to {'below ' if below else ''}{most}"
        raise RequestError(f"{name} is {value!r}; allowed is a number {allowed}.", _ADVICE)


def _check_integer(name: str, value: int | UnsetType, least: int, most: int) -> None:
    if value is UNSET:
        return
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise RequestError(f"{name} is {value!r}; allowed is a whole number from {least} to {most}.", _ADVICE)


def _check_tokens(name: str, tokens: tuple[int, ...], most: int) -> None:
    if not isinstance(tokens, tuple):
        raise RequestError(f"{name} is {tokens!r}; allowed is a tuple of token ids.", _ADVICE)
    if len(tokens) > most:
        raise RequestError(f"{name} holds {len(tokens)} tokens; allowed are at most {most}.", _ADVICE)
    for token in tokens:
        _check_integer(f"{name}: a token id", token, 0, MAX_TOKENS)


def _check_bad_words(words: tuple[tuple[int, ...], ...]) -> None:
    if not isinstance(words, tuple) or not all(isinstance(word, tuple) and word for word in words):
        raise RequestError("bad_words_ids holds something else than lists of token ids.", _ADVICE)
    if len(words) > MAX_BAD_WORDS:
        raise RequestError(f"bad_words_ids holds {len(words)} words; allowed are at most {MAX_BAD_WORDS}.", _ADVICE)
    for word in words:
        _check_tokens("bad_words_ids", word, MAX_BAD_WORD_TOKENS)


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
