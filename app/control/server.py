"""The control door as the controller keeps it: calls in, progress and results out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import zmq
import zmq.asyncio

from app.control.address import DoorAddress
from app.control.messages import (
    MAX_BYTES,
    VERSION,
    Bye,
    Call,
    Cancel,
    Hello,
    Lost,
    Ping,
    Pong,
    Result,
    ToCommand,
    ToController,
    Told,
    Welcome,
    encode,
    failure,
    pack,
    read_call,
    unpack,
)
from app.control.methods import REQUEST_ID, methods
from app.controller import Controller
from app.errors import BadInput, ShardboardError
from app.inference.parameters import GenerationParameters
from app.inference.prompt import Prompt
from app.runs.trace import Origin
from worker_agent import __version__
from worker_agent.wire.links import Endpoint, agent_socket, bind
from worker_agent.wire.zap import Doorkeeper

log = logging.getLogger(__name__)

SILENCE_SECONDS = 30.0
"""A command that has not been heard of for so long is gone, and what it asked for is cancelled."""
FAREWELL_SECONDS = 5.0
"""How long closing waits until commands have taken their last messages."""
MOST_CALLS = 64
"""Of one command at a time; a real one has one or two."""


class GenerateArguments(msgspec.Struct, frozen=True):
    """Of the one method that is followed by its events."""

    model: str
    prompt: Prompt
    parameters: dict[str, Any]
    origin: Origin


@dataclass
class _Command:
    """One command at the door."""

    route: bytes
    heard_at: float
    calls: dict[int, asyncio.Task[None]] = field(default_factory=dict)


class ControlServer:
    """Opened by every controller that stays: the window's and the service's. Belongs to the controller's loop.

    Only who knows the controller's secret key gets in: who may read the keys in its home.
    """

    def __init__(self, controller: Controller) -> None:
        self._controller = controller
        self._commands: dict[bytes, _Command] = {}
        self._address: DoorAddress | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._outgoing: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()

    async def open(self) -> None:
        """Listen on a free port of this machine and write its address down. Raises ShardboardError, OSError."""
        keys = self._controller.identity.keys
        # A context of its own: its doorkeeper admits this one key, for this socket alone.
        self._context = zmq.asyncio.Context()
        self._router = agent_socket(self._context, keys)
        self._router.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        self._door = Doorkeeper(self._context, lambda key: key == keys.public)
        try:
            endpoint = bind(self._router, Endpoint("127.0.0.1", 0))
            self._door.open()
            self._address = DoorAddress(address=endpoint.address, pid=os.getpid(), boot=self._controller.identity.boot)
            await asyncio.to_thread(self._address.write, self._controller.home)
        except BaseException:
            self._address = None
            self._router.close(linger=0)
            if self._door.is_alive():
                self._door.close()
            self._context.destroy(linger=0)
            raise
        self._tasks = [asyncio.create_task(work()) for work in (self._receive, self._send, self._watch)]

    async def close(self) -> None:
        """Cancel what commands wait for, tell them, and close."""
        if self._address is None:
            return
        address, self._address = self._address, None
        await asyncio.to_thread(address.remove, self._controller.home)
        running = [call for command in self._commands.values() for call in command.calls.values()]
        for call in running:
            call.cancel()
        await asyncio.gather(*running, return_exceptions=True)
        # What was cancelled has said so: let it out before the socket closes.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                while not self._outgoing.empty():
                    await asyncio.sleep(0.01)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._router.close(linger=200)
        await asyncio.to_thread(self._door.close)
        await asyncio.to_thread(self._context.term)

    # --- frames ---

    async def _receive(self) -> None:
        while True:
            route, *frames = await self._router.recv_multipart()
            try:
                message = read_call(frames[0]) if len(frames) == 1 else None
            except msgspec.DecodeError as error:
                log.warning("a message at the control door cannot be read: %s", error)
                continue
            if message is not None:
                self._received(route, message)

    def _received(self, route: bytes, message: ToController) -> None:
        now = asyncio.get_running_loop().time()
        if isinstance(message, Hello):
            self._commands.setdefault(route, _Command(route, now))
            self._tell(route, Welcome(VERSION, __version__, os.getpid()))
        command = self._commands.get(route)
        if command is None:  # it was away for long, or its connection broke and is another one now
            self._tell(route, Lost())
            return
        command.heard_at = now
        match message:
            case Ping():
                self._tell(route, Pong())
            case Call() as call if len(command.calls) >= MOST_CALLS:
                self._tell(route, failure(call.id, BadInput(f"{MOST_CALLS} calls of this command are under way.")))
            case Call() as call if call.id not in command.calls:
                command.calls[call.id] = asyncio.create_task(self._answer(command, call))
            case Cancel(id):
                if (running := command.calls.get(id)) is not None:
                    running.cancel()
            case Bye():
                self._forget(command)

    async def _send(self) -> None:
        while True:
            route, data = await self._outgoing.get()
            try:
                await self._router.send_multipart((route, data))
            except zmq.ZMQError:  # it is gone, or takes nothing any more
                if (command := self._commands.get(route)) is not None:
                    self._forget(command)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SILENCE_SECONDS / 10)
            now = asyncio.get_running_loop().time()
            for command in list(self._commands.values()):
                if now - command.heard_at > SILENCE_SECONDS:
                    self._forget(command)

    def _forget(self, command: _Command) -> None:
        self._commands.pop(command.route, None)
        for call in command.calls.values():
            call.cancel()

    def _tell(self, route: bytes, message: ToCommand) -> None:
        self._outgoing.put_nowait((route, encode(message)))

    # --- calls ---

    async def _answer(self, command: _Command, call: Call) -> None:
        try:
            work = self._generate if call.method == "generate" else self._call
            result = await work(command, call)
            if len(bytes(result)) > MAX_BYTES // 2:
                raise ShardboardError(f"The result of {call.method} is too large to be handed over.")
            self._tell(command.route, Result(call.id, result))
        except asyncio.CancelledError:
            self._tell(command.route, failure(call.id, _cancelled()))
        except ShardboardError as error:
            self._tell(command.route, failure(call.id, error))
        except Exception as error:  # a bug of ours: the command must hear of it, and the log must have it
            log.exception("the call %s of a command failed", call.method)
            self._tell(command.route, failure(call.id, error))
        finally:
            command.calls.pop(call.id, None)

    async def _call(self, command: _Command, call: Call) -> msgspec.Raw:
        method = methods().get(call.method)
        if method is None:
            raise BadInput(f"The controller has no method '{call.method}'.")
        given = {}
        for name, value in call.arguments.items():
            if name in method.callbacks:
                given[name] = self._teller(command.route, call.id, name)
            elif name in method.parameters:
                given[name] = _read(call.method, name, value, method.parameters[name])
            else:
                raise BadInput(f"{call.method} has no argument '{name}'.")
        return pack(await method.function(self._controller, **given))

    def _teller(self, route: bytes, id: int, name: str) -> Callable[[object], None]:
        """What stands in for the command's callback; may be called in any thread."""
        loop = asyncio.get_running_loop()

        def tell(value: object) -> None:
            loop.call_soon_threadsafe(self._tell, route, Told(id, name, pack(value)))

        return tell

    async def _generate(self, command: _Command, call: Call) -> msgspec.Raw:
        given = _read("generate", "arguments", call.arguments["arguments"], GenerateArguments)
        parameters = GenerationParameters.from_json(given.parameters)
        run = await self._controller.generate(given.model, given.prompt, parameters, origin=given.origin)
        self._tell(command.route, Told(call.id, REQUEST_ID, pack(run.id)))
        told = 0
        try:
            async for event in run:
                self._tell(command.route, Told(call.id, type(event).__name__, pack(event)))
                told += 1
        except asyncio.CancelledError:
            # The request ends; what was not told of it, its last event above all, still is.
            await run.cancel()
            count = 0
            async for event in run:
                count += 1
                if count > told:
                    self._tell(command.route, Told(call.id, type(event).__name__, pack(event)))
        return pack(run.id)


def _read(method: str, name: str, value: msgspec.Raw, type: Any) -> Any:
    try:
        return unpack(value, type)
    except msgspec.DecodeError as error:
        raise BadInput(f"The argument '{name}' of {method} cannot be read: {error}.") from error


def _cancelled() -> ShardboardError:
    from app.errors import Cancelled

    return Cancelled("Cancelled.")
