"""What is kept of a response in the registry, and reading it again when its request is over."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import msgspec

from app.api.openai.responses.bodies import InputItem, ResponseBody
from app.inference.chat_format import ChatFormat
from app.registry import Registry, RequestRecord, ResponseRecord
from app.runs.trace import RequestTrace, TokenLogprob, pack, unpack


@dataclass(frozen=True)
class Asked:
    """What a response was asked. The input of its body is all that the model was given, earlier responses included."""

    id: str
    body: ResponseBody

    @classmethod
    def kept(cls, record: ResponseRecord) -> Asked:
        return cls(record.id, ResponseBody.model_validate(record.asked))

    @classmethod
    def of(cls, id: str, body: ResponseBody, items: Sequence[InputItem]) -> Asked:
        return cls(id, body.model_copy(update={"input": list(items)}))

    def keep(self, registry: Registry, request_id: int) -> Future[None]:
        """Write it down beside its request, without waiting for the disk."""
        return registry.responses.begin(self.id, request_id, self.body.model_dump(exclude_unset=True, by_alias=True))

    def settings(self) -> dict[str, Any]:
        """What a response repeats of them."""
        body = self.body
        format = None if body.text is None else body.text.format
        text = {"type": "text"} if format is None else format.model_dump(exclude_unset=True, by_alias=True)
        choice = body.tool_choice or "auto"
        return {
            "background": bool(body.background),
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "max_tool_calls": body.max_tool_calls,
            "metadata": body.metadata or {},
            "parallel_tool_calls": body.parallel_tool_calls is not False,
            "previous_response_id": body.previous_response_id,
            "reasoning": {"effort": None if body.reasoning is None else body.reasoning.effort, "summary": None},
            "store": body.is_stored,
            "text": {"format": text},
            "tool_choice": choice if isinstance(choice, str) else choice.model_dump(),
            "tools": [
                {"description": None, "parameters": None, "strict": False, **tool.model_dump(exclude_unset=True)}
                for tool in body.tools or []
            ],
            "top_logprobs": body.top_logprobs or 0,
            "truncation": "disabled",
            "user": (body.model_extra or {}).get("user"),
        }


@dataclass(frozen=True)
class WrittenDown:
    """A request that nobody runs any more, as its answer is read."""

    record: RequestRecord
    logprobs: Sequence[TokenLogprob]
    cached_tokens: int
    format: ChatFormat | None
    """None where nothing was begun."""

    @classmethod
    def of(cls, record: RequestRecord, trace: bytes | None, format: ChatFormat | None) -> WrittenDown:
        told = None if trace is None else unpack(trace)
        if not isinstance(told, RequestTrace):  # forgotten before the text was
            return cls(record, (), 0, format)
        return cls(record, told.logprobs, told.cached_tokens, format)

    @property
    def is_over(self) -> bool:
        return self.record.status.is_over

    @property
    def text(self) -> str:
        return self.record.result

    @property
    def token_ids(self) -> Sequence[int]:
        return self.record.token_ids


def forget(registry: Registry, record: ResponseRecord) -> None:
    """Remove a response and all texts and tokens of it; the request stays, as one whose text is not kept. Blocks."""
    subject = str(record.request_id)
    trace = registry.traces.get("request", subject)
    told = None if trace is None else unpack(trace)
    if isinstance(told, RequestTrace):
        bare = msgspec.structs.replace(told, logprobs=(), prompt_logprobs=(), prompt_kept=False)
        registry.traces.put("request", subject, pack(bare))
    registry.responses.forget(record.id)
