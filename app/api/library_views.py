"""What the endpoints of the library answer with."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, Field

from app.inference.model_defaults import ModelDefaults
from app.registry import MeasurementRecord, ModelRecord
from app.runs.measured import circumstances_text, measured_text


class MeasurementView(BaseModel):
    """What a model's numbers cost: perplexity over a text, and greedy tokens that stay the same."""

    dtype: str
    quantize: str
    kv_dtype: str
    nodes: list[str] = Field(description="the names of those it ran on")
    text: str = Field(description="the name of the text")
    tokens: int = Field(description="how many of the text's tokens were predicted")
    perplexity: float
    reference: str | None = Field(description="what it was compared with")
    reference_perplexity: float | None
    greedy_tokens: int | None = Field(description="how many tokens the reference chose")
    same_tokens: int | None = Field(description="how many of them would have been chosen in the same places")
    remark: str = Field(description="why there is no reference")
    in_words: str
    circumstances: str = Field(description="date, text and nodes, in words")
    measured_at: datetime

    @classmethod
    def of(cls, record: MeasurementRecord) -> MeasurementView:
        return cls(
            dtype=record.serving.dtype, quantize=record.serving.quantize, kv_dtype=record.serving.kv_dtype,
            nodes=list(record.nodes), text=record.text, tokens=record.tokens, perplexity=record.perplexity,
            reference=record.reference,
            reference_perplexity=record.reference_perplexity, greedy_tokens=record.greedy_tokens,
            same_tokens=record.same_tokens, remark=record.remark,
            in_words=f"in {record.serving.numbers}: {measured_text(record)}", circumstances=circumstances_text(record),
            measured_at=record.created_at,
        )  # fmt: skip


class ModelView(BaseModel):
    """A model of the library. `weight_bytes` as they are stored, `context` in tokens.

    `notes` are from adding it, and of what its generation_config.json asks for in vain.
    """

    name: str
    source: str
    architecture: str
    layers: int
    parameters: int
    weight_bytes: int
    dtype: str
    context: int
    notes: list[str]
    default_parameters: dict[str, Any] = Field(
        description="what its generation_config.json asks for: it goes where a request says nothing"
    )
    measurements: list[MeasurementView] = Field(description="the newest in each kind of numbers")
    added_at: datetime

    @classmethod
    def of(
        cls,
        record: ModelRecord,
        notes: Sequence[str] = (),
        defaults: ModelDefaults | None = None,
        measured: Sequence[MeasurementRecord] = (),
    ) -> ModelView:
        asked = defaults or ModelDefaults()
        return cls(
            name=record.name, source=record.source, architecture=record.architecture, layers=record.layers,
            parameters=record.parameters, weight_bytes=record.weight_bytes, dtype=record.dtype,
            context=record.context, notes=[*notes, *asked.notes],
            default_parameters=asked.values, measurements=[MeasurementView.of(each) for each in measured],
            added_at=record.created_at,
        )  # fmt: skip


class ModelList(BaseModel):
    models: list[ModelView]
