"""What a model is loaded for: it decides how much memory a layer takes, and how long a sequence may become."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

DEFAULT_CONTEXT = 8192
DEFAULT_KV_TOKENS = 8192
DEFAULT_WAIT_SECONDS = 30
MAX_WAIT_SECONDS = 7 * 24 * 3600
RECOVERIES = ("fast", "exact")
"""How answers go on when a stage was lost: by reading their tokens anew, which in half precision may change low bits,
or to the bit, from a journal that every stage keeps of what it sent."""
QUANTIZE = ("none", "int8", "int4")
"""What a deployment may ask for (`worker_agent.wire.messages.Quantize`)."""
KV_DTYPES = ("computed", "int8")
"""In what keys and values may be kept (`worker_agent.wire.messages.KvDType`)."""


@dataclass(frozen=True, slots=True)
class Serving:
    """All of it decided. Whatever else a stage can be loaded with belongs here too."""

    dtype: str
    """The compute dtype."""
    context: int
    """The longest sequence, in tokens."""
    kv_tokens: int
    """For how many tokens in all each stage keeps keys and values."""
    quantize: str = "none"
    """Into what the float matrices of the layers are put (`QUANTIZE`); what is stored in blocks stays so anyway."""
    kv_dtype: str = "computed"
    """In what keys and values are kept (`KV_DTYPES`), by stages that can: as they are computed, or in int8."""
    wait_seconds: int = DEFAULT_WAIT_SECONDS
    """How long answers wait for a lost node whose layers no other one has room for, before they fail."""
    recovery: str = "fast"
    """How answers go on when a stage was lost (`RECOVERIES`)."""

    @classmethod
    def kept(cls, stored: Any) -> Serving:
        """Of an object's fields of these names, as records and traces have them."""
        return cls(**{name: getattr(stored, name) for name in cls.__slots__})

    @property
    def numbers(self) -> str:
        """In words, in what numbers it is computed: bfloat16; float32, weights in int4, keys and values in int8."""
        weights = "" if self.quantize == "none" else f", weights in {self.quantize}"
        return self.dtype + weights + ("" if self.kv_dtype == "computed" else f", keys and values in {self.kv_dtype}")

    @property
    def in_floats(self) -> Serving:
        """The same without what makes answers differ from those of the model's floats."""
        return replace(self, quantize="none", kv_dtype="computed")

    @property
    def longest(self) -> int:
        """Tokens that a sequence may really have: all of it must fit among the keys and values."""
        return min(self.context, self.kv_tokens)


@dataclass(frozen=True, slots=True)
class ServingWish:
    """What somebody asks for; None leaves it to the model."""

    dtype: str | None = None
    context: int | None = None
    kv_tokens: int | None = None
    quantize: str | None = None
    kv_dtype: str | None = None
    wait_seconds: int | None = None
    recovery: str | None = None

    @classmethod
    def of(cls, serving: Serving) -> ServingWish:
        """Exactly this."""
        return cls(**asdict(serving))

    def completed(self, dtype: str, max_context: int) -> Serving:
        """What is left out becomes the model's own dtype, its context up to a usual one, and room for one sequence.

        Args:
            dtype: the model's own.
            max_context: the longest sequence that the model reads, in tokens.
        """
        context = self.context or min(max_context, DEFAULT_CONTEXT)
        kv_tokens = self.kv_tokens or max(context, DEFAULT_KV_TOKENS)
        wait = DEFAULT_WAIT_SECONDS if self.wait_seconds is None else self.wait_seconds
        return Serving(
            self.dtype or dtype,
            context,
            kv_tokens,
            self.quantize or "none",
            self.kv_dtype or "computed",
            wait,
            self.recovery or "fast",
        )
