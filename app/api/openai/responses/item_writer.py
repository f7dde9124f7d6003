"""The items of an answer, as its parts come: each begins, grows and ends, and every step of that is an event."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

from app.api.openai.answers import TokenLogprobs
from app.api.openai.responses.answers import (
    ArgumentsEvent,
    ContentPart,
    Event,
    FunctionCallItem,
    ItemEvent,
    ItemStatus,
    OutputItem,
    OutputMessage,
    OutputText,
    PartEvent,
    ReasoningEvent,
    ReasoningItem,
    ReasoningText,
    TextEvent,
)
from app.api.openai.responses.items import item_id
from app.api.openai.tools import CallIds
from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan, Reasoning


class ItemWriter:
    """Take the parts in order, then `end`. Events are without their numbers."""

    def __init__(self, response_id: str, call_ids: CallIds) -> None:
        self._response_id, self._call_ids = response_id, call_ids
        self.items: list[OutputItem] = []
        """The last one grows, unless it has ended."""
        self._is_open = False

    @property
    def in_other_than_text(self) -> bool:
        """Whether thinking or a call is being written."""
        return self._is_open and not isinstance(self.items[-1], OutputMessage)

    def take(self, part: AnswerPart, logprobs: Sequence[TokenLogprobs] = ()) -> Iterator[Event]:
        """The answer's next part, with the log probabilities of its tokens where it is text."""
        if isinstance(part, str):
            yield from self._text(part, logprobs)
        elif isinstance(part, Reasoning):
            yield from self._think(part.text)
        elif isinstance(part, CallBegan):
            yield from self._end_item("completed")
            id, call_id = self._next_id("function_call"), self._call_ids.id(part.name, part.index)
            yield self._begin(
                FunctionCallItem(
                    id=id, type="function_call", status="in_progress", call_id=call_id, name=part.name, arguments=""
                )
            )
        elif isinstance(part, CallArguments):
            yield from self._go_on_calling(part.text)

    def end(self, status: ItemStatus, *, empty: bool) -> Iterator[Event]:
        """The answer is over.

        Args:
            status: how the last item has ended.
            empty: an answer of nothing is a message of nothing.
        """
        if empty and not self.items:
            yield from self._begin_message()
        yield from self._end_item(status)

    # --- parts ---

    def _text(self, text: str, logprobs: Sequence[TokenLogprobs]) -> Iterator[Event]:
        if not self._is_open or self.in_other_than_text:
            yield from self._end_item("completed")
            yield from self._begin_message()
        message = self.items[-1]
        assert isinstance(message, OutputMessage)
        content = message.content[0]
        content.text += text
        content.logprobs += logprobs
        yield TextEvent(
            type="response.output_text.delta", sequence_number=0, item_id=message.id, output_index=self._place,
            content_index=0, delta=text, logprobs=list(logprobs),
        )  # fmt: skip

    def _think(self, text: str) -> Iterator[Event]:
        if not self._is_open or not isinstance(self.items[-1], ReasoningItem):
            yield from self._end_item("completed")
            id = self._next_id("reasoning")
            thinking = ReasoningItem(id=id, type="reasoning", status="in_progress", summary=[], content=[])
            yield self._begin(thinking)
            thinking.content.append(ReasoningText(type="reasoning_text", text=""))
            yield self._of_part("response.content_part.added", thinking.content[0])
        item = self.items[-1]
        assert isinstance(item, ReasoningItem)
        item.content[0].text += text
        yield ReasoningEvent(
            type="response.reasoning_text.delta", sequence_number=0, item_id=item.id, output_index=self._place,
            content_index=0, delta=text,
        )  # fmt: skip

    def _go_on_calling(self, arguments: str) -> Iterator[Event]:
        call = self.items[-1]
        assert isinstance(call, FunctionCallItem)  # nothing comes between a call and its arguments
        call.arguments += arguments
        yield ArgumentsEvent(
            type="response.function_call_arguments.delta", sequence_number=0, item_id=call.id,
            output_index=self._place, delta=arguments,
        )  # fmt: skip

    # --- beginnings and ends ---

    @property
    def _place(self) -> int:
        return len(self.items) - 1

    def _next_id(self, type: str) -> str:
        return item_id(self._response_id, type, str(len(self.items)))

    def _begin_message(self) -> Iterator[Event]:
        id = self._next_id("message")
        message = OutputMessage(id=id, type="message", status="in_progress", role="assistant", content=[])
        yield self._begin(message)
        message.content.append(OutputText(type="output_text", text="", annotations=[], logprobs=[]))
        yield self._of_part("response.content_part.added", message.content[0])

    def _begin(self, item: OutputItem) -> Event:
        self.items.append(item)
        self._is_open = True
        return self._of_item("response.output_item.added")

    def _end_item(self, status: ItemStatus) -> Iterator[Event]:
        if not self._is_open:
            return
        item = self.items[-1]
        if isinstance(item, FunctionCallItem):
            yield ArgumentsEvent(
                type="response.function_call_arguments.done", sequence_number=0, item_id=item.id,
                output_index=self._place, name=item.name, arguments=item.arguments,
            )  # fmt: skip
        elif isinstance(item, OutputMessage):
            text = item.content[0]
            yield TextEvent(
                type="response.output_text.done", sequence_number=0, item_id=item.id, output_index=self._place,
                content_index=0, text=text.text, logprobs=text.logprobs,
            )  # fmt: skip
            yield self._of_part("response.content_part.done", text)
        else:
            yield ReasoningEvent(
                type="response.reasoning_text.done", sequence_number=0, item_id=item.id, output_index=self._place,
                content_index=0, text=item.content[0].text,
            )  # fmt: skip
            yield self._of_part("response.content_part.done", item.content[0])
        item.status, self._is_open = status, False
        yield self._of_item("response.output_item.done")

    def _of_item(self, type: Literal["response.output_item.added", "response.output_item.done"]) -> Event:
        # A copy: the item grows, and the event is told as it was.
        item = self.items[-1].model_copy(deep=True)
        return ItemEvent(type=type, sequence_number=0, output_index=self._place, item=item)

    def _of_part(
        self, type: Literal["response.content_part.added", "response.content_part.done"], part: ContentPart
    ) -> Event:
        return PartEvent(
            type=type, sequence_number=0, item_id=self.items[-1].id, output_index=self._place, content_index=0,
            part=part.model_copy(deep=True),
        )  # fmt: skip
