"""What a model's own generation_config.json asks of each generation, as transformers' `generate` would apply it.

A request goes by it in whatever it does not say itself. What no sampler here knows is noted, never passed over in
silence. Read without transformers: the file is JSON, and the names are those of transformers 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from app.errors import ModelError, RequestError
from app.inference.parameters import GenerationParameters
from app.models.tokenizer_reading import read_json

FILE = "generation_config.json"
USUAL_TOP_K = 50
"""What `generate` takes where a model that samples does not say (GenerationConfig._get_default_generation_params)."""

_TAKEN = {
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "epsilon_cutoff": "epsilon_cutoff",
    "eta_cutoff": "eta_cutoff",
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "bad_words_ids": "bad_words_ids",
    "suppress_tokens": "suppress_tokens",
    "begin_suppress_tokens": "begin_suppress_tokens",
    "min_new_tokens": "min_tokens",
    "max_new_tokens": "max_tokens",
    "stop_strings": "stop",
}
"""transformers' name of a setting -> ours."""

_BEAMS = "answers are made token by token, without beams"
_UNKNOWN = {
    "num_beams": (1, _BEAMS),
    "num_beam_groups": (1, _BEAMS),
    "diversity_penalty": (0.0, _BEAMS),
    "constraints": (None, _BEAMS),
    "force_words_ids": (None, _BEAMS),
    "penalty_alpha": (None, "there is no contrastive search"),
    "dola_layers": (None, "all layers have their say"),
    "guidance_scale": (1.0, "there is no classifier-free guidance"),
    "sequence_bias": (None, "use logit_bias"),
    "top_h": (None, "top_k, top_p and min_p are there"),
    "exponential_decay_length_penalty": (None, "lengths are not penalized"),
    "forced_bos_token_id": (None, "the prompt begins as its tokenizer has it"),
    "forced_eos_token_id": (None, "an answer that is cut short ends where it is"),
    "watermarking_config": (None, "answers carry no watermark"),
    "token_healing": (False, "the prompt stays as it is"),
    "min_length": (0, "use min_tokens, which counts the answer alone"),
    "max_length": (20, "max_tokens counts the answer alone"),
    "max_time": (None, "there is no limit in time"),
    "remove_invalid_values": (False, "a request whose numbers stop being finite fails"),
}
"""Settings that change what comes, and are not applied: the value that changes nothing, and what is done instead.
All that is missing here and above changes nothing for a causal model (caches, outputs, encoders, drafts)."""


class ModelDefaults(Struct, frozen=True, kw_only=True):
    """What a model asks for. Made by `open`."""

    values: dict[str, Any] = {}
    """By the names of GenerationParameters; what is missing is neutral. JSON's types."""
    samples: bool | None = None
    """Whether the model wants its answers sampled; None where it does not say, and `generate` is greedy."""
    temperature: float | None = None
    """As the file has it, whether it samples or not."""
    notes: tuple[str, ...] = ()
    """What it asks for and does not get, a sentence each."""

    @classmethod
    def open(cls, folder: Path) -> ModelDefaults:
        """Read a model folder; without a generation_config.json the config's own fields count, as in transformers.

        Raises ModelError when a file cannot be read.
        """
        asked = _settings(folder)
        values: dict[str, Any] = {}
        notes = []
        for theirs, ours in _TAKEN.items():
            if asked.get(theirs) is None:
                continue
            try:
                values |= _checked(ours, asked[theirs])
            except RequestError as error:
                notes.append(f"{theirs} {_shown(asked[theirs])} is not applied: {error.message}")
        temperature = asked.get("temperature")
        try:
            temperature = None if temperature is None else _checked("temperature", temperature)["temperature"]
        except RequestError as error:
            notes.append(f"temperature {_shown(temperature)} is not applied: {error.message}")
            temperature = None
        samples = asked.get("do_sample")
        samples = samples if isinstance(samples, bool) else None
        if samples:
            values["temperature"] = 1.0 if temperature is None else temperature
            values.setdefault("top_k", USUAL_TOP_K)
        for name, (usual, instead) in _UNKNOWN.items():
            if asked.get(name) not in (None, usual, [], {}):
                notes.append(f"{name} {_shown(asked[name])} is not applied: {instead}.")
        return cls(values=values, samples=samples, temperature=temperature, notes=tuple(notes))

    def within(self, vocab_size: int) -> ModelDefaults:
        """The same without tokens that the model does not have: what cannot come need not be held back."""
        values = dict(self.values)
        for name in ("suppress_tokens", "begin_suppress_tokens"):
            if name in values:
                values[name] = [token for token in values[name] if token < vocab_size]
        if "bad_words_ids" in values:
            values["bad_words_ids"] = [word for word in values["bad_words_ids"] if max(word) < vocab_size]
        return structs.replace(self, values=values)

    @property
    def in_words(self) -> str:
        """What it asks for, for people; empty when that is nothing."""
        return ", ".join(f"{name} {_shown(value)}" for name, value in self.values.items())

    @classmethod
    def shown(cls, folder: Path) -> ModelDefaults:
        """The same for lists of models, in which one whose files cannot be read stands with that as its note."""
        try:
            return cls.open(folder)
        except ModelError as error:
            return cls(notes=(error.message,))


def _settings(folder: Path) -> Mapping[str, Any]:
    if (folder / FILE).is_file():
        return read_json(folder / FILE)
    config = read_json(folder / "config.json")
    inner = next((config[name] for name in ("decoder", "generator", "text_config") if config.get(name)), None)
    return {
        **(inner if isinstance(inner, Mapping) else {}),
        **{name: one for name, one in config.items() if one is not None},
    }


def _checked(name: str, value: Any) -> dict[str, Any]:
    """A parameter of ours, if it can be used. Raises RequestError."""
    if name == "top_k" and value == -1:
        value = 0
    if name == "stop" and isinstance(value, str):
        value = [value]
    made = GenerationParameters.from_json({name: value}).to_json()
    return {name: made[name]}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:59]}…"
