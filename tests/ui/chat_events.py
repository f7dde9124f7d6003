"""What tests of Chat post in place of agents: the events of a request, through a real RequestStream."""

from __future__ import annotations

from datetime import UTC, datetime

from app.inference.events import Finished, PromptProgress, Started, TextDelta
from app.registry.records import RequestRecord, RequestStatus
from app.ui.chat.answer import Answer
from app.ui.chat.chat_screen import ChatScreen


def record(
    result: str, status: RequestStatus = RequestStatus.COMPLETED, *, error: str | None = None, id: int = 1
) -> RequestRecord:
    now = datetime.now(UTC)
    return RequestRecord(
        id=id, model_name="made-up-8b", deployment_id="d1", prompt="", result=result, error=error, status=status,
        parameters={}, prompt_token_ids=(), token_ids=(), finish_reason="stop", prompt_tokens=42,
        completion_tokens=len(result.split()), timings={"tokens_per_second": 20.5, "first_token": 0.25, "total": 1.5},
        created_at=now, started_at=now, completed_at=now,
    )  # fmt: skip


def post(answer: Answer, *items: object) -> None:
    """As the bridge would: one batch."""
    assert answer.stream is not None
    answer.stream.deliver(list(items))


def stream(answer: Answer, *texts: str, id: int = 1) -> None:
    """The prompt is through, and these texts come, each in a batch of its own."""
    post(answer, id, Started(id, 42), PromptProgress(42, 42))
    for count, text in enumerate(texts, 1):
        post(answer, TextDelta(text, count))


def finish(
    answer: Answer, status: RequestStatus = RequestStatus.COMPLETED, *, error: str | None = None, id: int = 1
) -> None:
    post(answer, Finished(record(answer.message.text, status, error=error, id=id)))


def converse(screen: ChatScreen, question: str, text: str) -> None:
    """One question and its whole answer."""
    assert screen.ask(question)
    answer = screen.desk.answer
    assert answer is not None
    stream(answer, text)
    finish(answer)
