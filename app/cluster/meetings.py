"""The controller's side of a meeting with an agent that waits to be found: a code typed here makes sure of its key.

`worker_agent/wire/meeting.py` has the cryptography, `worker_agent/host/meeting.py` the agent's side.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import msgspec
import zmq.asyncio

from app.cluster.connection import Connection
from app.cluster.controller_identity import ControllerIdentity
from app.cluster.invitations import Registrar
from app.cluster.trouble import Trouble, failed_error, node_error
from app.errors import BadInput, Conflict, NodeError
from app.registry import NodeRecord
from worker_agent.wire.errors import VersionMismatch, WireError
from worker_agent.wire.keys import KeyProblem, check_key, key_fingerprint
from worker_agent.wire.links import AddressError, Endpoint
from worker_agent.wire.meeting import (
    CODE_DIGITS,
    MEETING_SECONDS,
    commitment_to,
    digits_of,
    fresh_nonce,
    meeting_code,
    printable,
)
from worker_agent.wire.messages import (
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    Committed,
    Confirm,
    Failed,
    Meet,
    Met,
    Reveal,
    Revealed,
    check_payload,
    decode,
    encode,
)
from worker_agent.wire.messages.fields import Call

ANSWER_SECONDS = 10.0
START_SECONDS = 120.0
"""How long an agent that was confirmed may take to start: it imports torch only then."""
MOST_TYPED = 3
"""Codes that may be typed in one meeting: somebody may mistype one."""
MOST_OPEN = 8
_RETRY_SECONDS = 0.5
_STARTING = {"refused", "timeout", "lost"}
"""What an agent looks like that ends its wait and starts."""

_log = logging.getLogger(__name__)

Awaited = TypeVar("Awaited", bound=Call)


class Meeting(msgspec.Struct, frozen=True):
    """One that is under way. The code is not told: it is to be read where the agent shows it."""

    id: str
    name: str
    """What the agent calls its machine."""
    address: str
    public_key: str

    @property
    def fingerprint(self) -> str:
        return key_fingerprint(self.public_key)


@dataclass
class _Open:
    meeting: Meeting
    talk: _Talk
    code: str
    typed: int = 0
    confirming: bool = False
    expiry: asyncio.TimerHandle | None = None


class Meetings:
    """Meets agents. Belongs to the controller's loop.

    Args:
        registrar: checks an agent that was confirmed, and registers it.
    """

    def __init__(self, context: zmq.asyncio.Context, identity: ControllerIdentity, registrar: Registrar) -> None:
        self._context, self._identity, self._registrar = context, identity, registrar
        self._open: dict[str, _Open] = {}
        self._ending: set[asyncio.Task[None]] = set()

    async def begin(self, address: str, public_key: str) -> Meeting:
        """Meet the agent that waits at `host:port`; it shows a code then, which `confirm` asks for.

        Raises:
            BadInput: no address, no key, or too many meetings at once.
            NodeError: it cannot be reached, is busy, speaks another version, or does not keep to its word.
        """
        try:
            endpoint, key = Endpoint.parse(address), check_key(public_key)
        except (AddressError, KeyProblem) as error:
            raise BadInput(str(error)) from error
        for each in list(self._open.values()):
            if each.meeting.public_key == key and not each.confirming:
                await self.end(each.meeting.id, "It begins anew.")
        if len(self._open) >= MOST_OPEN:
            raise BadInput(f"{MOST_OPEN} machines are being met.", "Confirm one of them, or cancel it.")
        talk = _Talk(self._context, endpoint, key, self._identity)
        try:
            opened = await self._exchange(talk, endpoint, key)
        except BaseException:
            await talk.close()
            raise
        self._open[opened.meeting.id] = opened
        expired = asyncio.get_running_loop().call_later
        opened.expiry = expired(MEETING_SECONDS, self._expire, opened.meeting.id)
        return opened.meeting

    async def _exchange(self, talk: _Talk, endpoint: Endpoint, key: str) -> _Open:
        own = self._identity.keys.public
        meet = Meet(call=1, name=self._identity.name, oldest=OLDEST_WIRE_VERSION, newest=WIRE_VERSION)
        committed = await talk.ask(meet, Committed, ANSWER_SECONDS)
        nonce = fresh_nonce()
        revealed = await talk.ask(Reveal(call=2, nonce=nonce), Revealed, ANSWER_SECONDS)
        if not hmac.compare_digest(commitment_to(revealed.nonce, key, own), committed.commitment):
            _log.warning("%s (key %s) changed its nonce in a meeting: it tries to steer the code", endpoint, key)
            raise NodeError(
                f"What answers at {endpoint} did not keep to what it had committed to. It is no agent of Shardboard's.",
                "Somebody on this network may try to be taken in. Use an invitation (node invite).",
                kind="not_allowed",
            )
        meeting = Meeting(secrets.token_hex(8), printable(committed.name), str(endpoint), key)
        return _Open(meeting, talk, meeting_code(key, own, revealed.nonce, nonce))

    async def confirm(self, id: str, code: str, on_right: Callable[[str], None] = lambda what_now: None) -> NodeRecord:
        """The code that the agent shows was typed; wait until it is confirmed there, too, and register the agent.

        Cancelling the call ends the meeting.

        Args:
            on_right: told in a sentence what is to be done now, when it was the right code.

        Raises:
            BadInput: no code, or another one; the third time the meeting is over.
            Conflict: there is no such meeting, or none any more.
            NodeError: it was refused at the agent, took too long, or the agent did not start.
        """
        opened = self._open.get(id)
        if opened is None or opened.confirming:
            raise Conflict("This meeting is over, or never was.", "Choose the machine again (node find).")
        digits = digits_of(code)
        if len(digits) != CODE_DIGITS:
            raise BadInput(f"A code has {CODE_DIGITS} digits.", f"Type the one that {opened.meeting.name} shows.")
        if not hmac.compare_digest(digits, opened.code):
            await self._mistyped(opened)
        opened.confirming = True
        meeting = opened.meeting
        on_right(f"The code is right. {meeting.name} asks in its terminal now: answer y there.")
        try:
            await opened.talk.ask(Confirm(call=3), Met, MEETING_SECONDS)
        except BaseException as error:
            await self.end(id, "It was cancelled there." if not isinstance(error, NodeError) else "")
            raise
        await self._close(opened)
        _log.info("met the agent %r at %s, with the key %s", meeting.name, meeting.address, meeting.public_key)
        return await self._register(meeting)

    async def _mistyped(self, opened: _Open) -> NoReturn:
        """Raises BadInput."""
        opened.typed += 1
        meeting = opened.meeting
        _log.warning(
            "a code was typed for %r (%s, key %s) that is not the one of the meeting",
            meeting.name, meeting.address, meeting.public_key,
        )  # fmt: skip
        again = opened.typed < MOST_TYPED
        if not again:
            await self.end(meeting.id, "The code that was typed there was another one.")
        raise BadInput(
            "This is not the code of this meeting.",
            f"If it is what {meeting.name} shows, somebody on this network stands between the two machines: answer no "
            f"there, and use an invitation (node invite). If it was mistyped: "
            f"{'type it again' if again else 'choose the machine again'}.",
        )

    async def _register(self, meeting: Meeting) -> NodeRecord:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while True:
            try:
                return await self._registrar.add(meeting.address, meeting.public_key, seconds=ANSWER_SECONDS)
            except NodeError as error:
                if error.kind not in _STARTING or loop.time() > deadline:
                    raise NodeError(
                        f"{meeting.name} was confirmed, and its agent did not start: {error.message}",
                        f"See its terminal; then add it: node add {meeting.address} --key='{meeting.public_key}'",
                        kind=error.kind,
                    ) from error
            await asyncio.sleep(_RETRY_SECONDS)

    async def end(self, id: str, why: str = "It was cancelled there.") -> None:
        """End a meeting, if it is under way, and tell the agent."""
        opened = self._open.get(id)
        if opened is None:
            return
        if why:
            with suppress(NodeError):
                opened.talk.tell(Failed(call=0, kind="ended", message=why))
                await asyncio.sleep(0.1)  # closing the socket drops what has not left
        await self._close(opened)

    async def close(self) -> None:
        """End all of them."""
        for id in list(self._open):
            await self.end(id, "The controller was closed.")
        await asyncio.gather(*self._ending)

    async def _close(self, opened: _Open) -> None:
        self._open.pop(opened.meeting.id, None)
        if opened.expiry is not None:
            opened.expiry.cancel()
        await opened.talk.close()

    def _expire(self, id: str) -> None:
        opened = self._open.get(id)
        if opened is not None and not opened.confirming:  # a call that waits for the agent has a limit of its own
            task = asyncio.create_task(self.end(id, "No code was typed there in time."))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)


class _Talk:
    """One connection to an agent that waits: a question at a time, and why there is no answer."""

    def __init__(
        self, context: zmq.asyncio.Context, endpoint: Endpoint, key: str, identity: ControllerIdentity
    ) -> None:
        self._who = str(endpoint)
        self._up = asyncio.Event()
        self._answers: asyncio.Queue[Call | Exception] = asyncio.Queue()
        self._trouble: Trouble | None = None
        self._connection = Connection(context, endpoint.address, key, identity.keys, "control", self)

    async def ask(self, question: Call, answer: type[Awaited], seconds: float) -> Awaited:
        """Raises NodeError."""
        try:
            async with asyncio.timeout(seconds):
                await self._up.wait()
                self.tell(question)
                while True:
                    told = await self._answers.get()
                    if isinstance(told, answer) and told.call == question.call:
                        return told
                    if isinstance(told, Failed):
                        raise _refused(told, self._who)
                    if isinstance(told, Exception):
                        raise told
        except TimeoutError:
            trouble = self._trouble or Trouble("timeout")
            raise node_error(trouble, "", self._who) from None

    def tell(self, message: Call) -> None:
        if not self._connection.up:
            raise node_error(self._trouble or Trouble("lost"), "", self._who)
        self._connection.send([encode(message)])  # type: ignore[arg-type]  # every Call is a message

    async def close(self) -> None:
        await self._connection.close()

    # --- what the connection tells ---

    def connection_up(self, connection: Connection) -> None:
        self._trouble = None
        self._up.set()

    def connection_down(self, connection: Connection) -> None:
        self._up.clear()
        self._trouble = Trouble("lost")
        self._answers.put_nowait(node_error(Trouble("lost"), "", self._who))

    def connection_trouble(self, connection: Connection, trouble: Trouble) -> None:
        self._trouble = trouble
        if trouble.kind != "timeout":
            self._up.set()  # what is asked fails at once: it does not pass by waiting

    def received(self, connection: Connection, frames: Sequence[bytes]) -> None:
        try:
            message = decode(frames[0])
            check_payload(message, frames[1:])
        except (VersionMismatch, WireError) as error:
            kind = "version" if isinstance(error, VersionMismatch) else "wire"
            self._answers.put_nowait(
                NodeError(f"What answers at {self._who} cannot be understood: {error}.", kind=kind)
            )
            return
        if isinstance(message, Call):
            self._answers.put_nowait(message)


def _refused(failed: Failed, who: str) -> NodeError:
    """An agent that waits has its own reasons; what it says comes from somebody who is not trusted yet."""
    if failed.kind == "busy":
        return NodeError(
            f"{who}: {printable(failed.message)}", "Try again in a few minutes, or see that machine's terminal.",
            kind="busy",
        )  # fmt: skip
    if failed.kind in ("not_allowed", "timeout"):
        return NodeError(f"{who}: {printable(failed.message)}", "Choose it again (node find).", kind=failed.kind)
    return failed_error(msgspec.structs.replace(failed, message=printable(failed.message)), who)
