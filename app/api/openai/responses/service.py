"""Responses: begun, followed, read again, cancelled, deleted. What is common with chats is in the room above.

A response that is stored is a request like all others, with what was asked beside it in the registry: so it goes on
when its controller dies, and whoever comes back reads on where it was.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Literal

from fastapi import Request
from fastapi.responses import Response

from app.api.openai.chat_answer import Answering
from app.api.openai.chat_call import ChatCall
from app.api.openai.errors import ApiError, refused
from app.api.openai.event_stream import ALIVE, EventStream, named_event
from app.api.openai.hangup import ClientGone, Hangup
from app.api.openai.responding import CLIENT_GONE, STATUS_SECONDS
from app.api.openai.responses.answers import DeletedResponse, ErrorEvent, InputItemList, ResponseObject
from app.api.openai.responses.asking import as_chat, in_own_words
from app.api.openai.responses.bodies import InputItem, ResponseBody
from app.api.openai.responses.followers import Followers
from app.api.openai.responses.items import REFERENCE, as_input, named, response_of, shown
from app.api.openai.responses.kept import Asked, WrittenDown, forget
from app.api.openai.responses.writer import ResponseWriter
from app.api.openai.run_group import ALIVE_SECONDS, failure_of
from app.api.openai.tools import ToolUse
from app.api.signs_of_life import with_signs_of_life
from app.errors import ModelError, RequestError
from app.inference.events import Finished, Started
from app.inference.request_run import RequestRun
from app.registry import RequestStatus, ResponseRecord
from app.runs.trace import Origin

if TYPE_CHECKING:
    from app.controller import Controller

log = logging.getLogger(__name__)

TAKEN_BACK_SECONDS = 10.0
"""A controller that has just begun takes its requests back within that."""


class ResponseService:
    """Belongs to the controller's loop. Every method raises ApiError, RequestError, ModelError."""

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._followers = Followers()

    async def create(self, request: Request, body: ResponseBody, origin: Origin) -> Response:
        """Begin a response; its stream, its end, or, in the background, its beginning."""
        self._check_kept(body)
        id = f"resp_{uuid.uuid4().hex}"
        earlier = await self._conversation(body.previous_response_id)
        items = [*earlier, *named(await self._resolved(body.items), id)]
        try:
            chat = as_chat(body, items, first=len(earlier))
            call = await ChatCall.of(self._controller, chat)
        except ApiError as error:
            raise in_own_words(error) from error
        run = await self._controller.inference.submit(
            body.model, call.prompt, call.parameters, origin=origin, keep_text=body.is_stored
        )
        asked = Asked.of(id, body, items)
        writer = ResponseWriter(asked, run, call.tokenizer, call.use)
        try:
            await self._written(asked, run)
        except BaseException:
            await asyncio.shield(run.cancel())
            raise
        if body.background and not body.stream:
            return _json(writer.response(), run)
        return await self._answered(request, writer, run)

    async def get(self, id: str) -> ResponseObject:
        """A response as it is now."""
        record, run = await self._find(id)
        return (await self._writer(record, run)).response()

    async def stream(self, request: Request, id: str, after: int) -> Response:
        """The events of a response behind this one, from its beginning for −1, whether it is over or not."""
        record, run = await self._find(id)
        writer = await self._writer(record, run)
        events = self._events(writer, run if isinstance(run, RequestRun) else None, after, _stays(record))
        return EventStream(events, Hangup(request.receive), _nothing, {"x-request-id": str(record.request_id)})

    async def cancel(self, id: str) -> ResponseObject:
        """End a response; one that is over stays as it is."""
        record, run = await self._find(id)
        writer = await self._writer(record, run)
        if isinstance(run, RequestRun):
            await run.cancel()
        return writer.response()

    async def delete(self, id: str) -> DeletedResponse:
        """Forget a response, and the texts of its request. One that is under way is cancelled first."""
        record, run = await self._find(id)
        if isinstance(run, RequestRun):
            await run.cancel()
        await self._controller.registry.call(lambda known: forget(known, record))
        return DeletedResponse(id=id, object="response", deleted=True)

    async def input_items(self, id: str, order: Literal["asc", "desc"], after: str | None, limit: int) -> InputItemList:
        """A page of what the model was given."""
        items = Asked.kept(await self._record(id)).body.items
        if order == "desc":
            items = items[::-1]
        ids = [item.id for item in items]
        if after is not None and after not in ids:
            raise refused(f"after: the input of {id} has no item '{after[:100]}'.", "after")
        start = 0 if after is None else ids.index(after) + 1
        page = items[start : start + limit]
        return InputItemList(
            object="list",
            data=[shown(item) for item in page],
            first_id=page[0].id if page else None,
            last_id=page[-1].id if page else None,
            has_more=start + limit < len(items),
        )

    # --- what was said before ---

    async def _conversation(self, id: str | None) -> list[InputItem]:
        """All that an earlier response was given, and its answer."""
        if id is None:
            return []
        response = await self._earlier(id, "previous_response_id")
        record = await self._record(id)
        return [*Asked.kept(record).body.items, *as_input(response.output)]

    async def _resolved(self, items: Sequence[InputItem]) -> list[InputItem]:
        """Items, each that refers to an earlier one replaced by that."""
        resolved = []
        for index, item in enumerate(items):
            if item.type == REFERENCE:
                param = f"input[{index}].id"
                owner = response_of(item.id or "")
                response = None if owner is None else await self._earlier(owner, param)
                known = [] if response is None else as_input(response.output)
                if response is not None:
                    known += Asked.kept(await self._record(response.id)).body.items
                found = next((each for each in known if each.id == item.id), None)
                if found is None:
                    raise refused(f"{param}: there is no item '{item.id}'; send it as it was.", param)
                item = found
            resolved.append(item)
        return resolved

    async def _earlier(self, id: str, param: str) -> ResponseObject:
        try:
            response = await self.get(id)
        except ApiError as error:
            if error.status == 404:
                raise refused(f"{param}: {error}", param, "previous_response_not_found") from error
            raise
        if response.status in ("queued", "in_progress"):
            raise refused(f"{param}: response '{id}' is not over yet.", param)
        return response

    # --- finding ---

    async def _record(self, id: str) -> ResponseRecord:
        record = await self._controller.registry.call(lambda known: known.responses.find(id))
        if record is None:
            raise ApiError(404, f"Response '{id[:100]}' does not exist, was not stored, or was deleted.", param="id")
        return record

    async def _find(self, id: str) -> tuple[ResponseRecord, RequestRun | WrittenDown]:
        """A response, and its request: under way, or as it was written down."""
        record = await self._record(id)
        with suppress(TimeoutError):
            async with asyncio.timeout(TAKEN_BACK_SECONDS):
                while True:
                    run = self._controller.find_request(record.request_id)
                    if run is not None:
                        return record, run
                    written = await self._read(record)
                    if written.is_over:
                        return record, written
                    await asyncio.sleep(0.1)
        raise ApiError(503, f"Response '{id}' waits to be taken up again.", type="server_error", code="unavailable")

    async def _read(self, record: ResponseRecord) -> WrittenDown:
        subject = str(record.request_id)
        request, trace = await self._controller.registry.call(
            lambda known: (known.requests.get(record.request_id), known.traces.get("request", subject))
        )
        format = None
        if request.prompt_token_ids:
            try:
                format = await asyncio.to_thread(self._controller.inference.answer_format, request)
            except (ModelError, RequestError) as error:
                raise _without_model(record.id, request.model_name) from error
        return WrittenDown.of(request, trace, format)

    async def _writer(self, record: ResponseRecord, run: Answering) -> ResponseWriter:
        asked = Asked.kept(record)
        model = run.record.model_name
        try:
            tokenizer = await self._controller.tokenizer(model)
            template = await asyncio.to_thread(self._controller.inference.template, model)
            use = ToolUse.of(as_chat(asked.body, (), 0), template)
        except (ModelError, RequestError) as error:
            raise _without_model(record.id, model) from error
        return ResponseWriter(asked, run, tokenizer, use)

    # --- answering ---

    def _check_kept(self, body: ResponseBody) -> None:
        """Raises ApiError where a response would have to be kept, and is not to be."""
        if not self._controller.settings.records.keep_text:
            if body.background:
                sentence = "background: this server keeps no texts (records.keep_text), so nobody could read it later."
                raise refused(sentence, "background")
            body.store = False
        if body.background and not body.is_stored:
            raise refused("background needs store to be true: nobody could read the answer otherwise.", "background")

    async def _written(self, asked: Asked, run: RequestRun) -> None:
        """Wait until a response that is to be stored is on the disk: what a client knows of survives a crash."""
        if asked.body.is_stored:
            written = asked.keep(self._controller.registry, run.id)
            await run.recorded()
            await asyncio.wrap_future(written)

    async def _answered(self, request: Request, writer: ResponseWriter, run: RequestRun) -> Response:
        body, hangup = writer.body, Hangup(request.receive)
        answer: Response | None = None
        try:
            if body.stream:
                await hangup.unless(_begun(run))
                events = self._events(writer, run, -1, stays=bool(body.background))
                on_end = _nothing if body.is_stored else run.cancel
                answer = EventStream(events, hangup, on_end, {"x-request-id": str(run.id)})
                return answer
            record = await hangup.unless(run.wait())
            if record.status is not RequestStatus.COMPLETED:
                raise in_own_words(failure_of(run, computing=bool(record.started_at)))
            return _json(writer.response(), run)
        except ClientGone:
            return Response(status_code=CLIENT_GONE)
        finally:
            if answer is None:
                hangup.close()
                if not (body.background and body.stream):
                    await asyncio.shield(run.cancel())

    async def _events(
        self, writer: ResponseWriter, run: RequestRun | None, after: int, stays: bool
    ) -> AsyncGenerator[bytes]:
        """The body of a stream. A failure of ours is its last event: it would look like a whole answer otherwise."""
        number = after
        try:
            async with aclosing(self._changes(run, stays)) as changes:
                async for changed in changes:
                    if not changed:
                        yield ALIVE
                        continue
                    for event in writer.new_events():
                        if event.sequence_number > after:
                            number = event.sequence_number
                            yield named_event(event.type, number, event)
                    if writer.is_over:
                        return
        except Exception:  # a bug of ours: whoever reads the stream must still learn that it broke
            log.exception("the stream of a response failed")
            sentence = "The server failed in the middle of the answer. This is a bug; see its log."
            broken = ErrorEvent(type="error", sequence_number=number + 1, code=None, message=sentence, param=None)
            yield named_event("error", number + 1, broken)

    async def _changes(self, run: RequestRun | None, stays: bool) -> AsyncGenerator[bool]:
        """True whenever there may be something to tell, at first, too; False when there was nothing for long."""
        yield True
        if run is None:
            return
        with self._followers.one_more(run, stays=stays):
            async with aclosing(with_signs_of_life(aiter(run), ALIVE_SECONDS)) as events:
                async for event in events:
                    yield event is not None


async def _begun(run: RequestRun) -> None:
    """Wait until the agents have it, but not for long. Raises ApiError when it has failed: the status still tells."""
    with suppress(TimeoutError):
        async with asyncio.timeout(STATUS_SECONDS):
            async for event in run:
                if isinstance(event, Started | Finished):
                    break
    if run.is_over and run.record.status is not RequestStatus.COMPLETED:
        raise in_own_words(failure_of(run, computing=False))


async def _nothing() -> None:
    """Whoever reads a stored response may leave."""


def _stays(record: ResponseRecord) -> bool:
    return bool(record.asked.get("background"))


def _json(response: ResponseObject, run: RequestRun) -> Response:
    content = response.model_dump_json(exclude_unset=True)
    return Response(content, media_type="application/json", headers={"x-request-id": str(run.id)})


def _without_model(id: str, model: str) -> ApiError:
    sentence = f"Response '{id}' was answered by {model}, which cannot be read any more; add the model again."
    return ApiError(404, sentence, code="model_not_found")
