"""The controller as a command sees it through the control door: the same methods, carried out elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
import zmq
import zmq.asyncio

from app.cluster.controller_identity import ControllerIdentity
from app.control.address import DoorAddress
from app.control.messages import (
    MAX_BYTES,
    VERSION,
    Bye,
    Call,
    Cancel,
    Failure,
    Hello,
    Lost,
    Ping,
    Result,
    ToCommand,
    Told,
    Welcome,
    encode,
    error_of,
    pack,
    read_answer,
    unpack,
)
from app.control.methods import EVENTS, REQUEST_ID, Method
from app.controller import Controller
from app.errors import BadInput, Cancelled, ShardboardError
from app.inference.events import Finished, RequestEvent
from app.inference.parameters import GenerationParameters
from app.inference.prompt import Prompt
from app.paths import Home
from app.runs.trace import UNKNOWN, Origin
from worker_agent import __version__
from worker_agent.wire.links import Endpoint, controller_socket

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

HELLO_SECONDS = 5.0
PING_SECONDS = 3.0
SILENCE_SECONDS = 20.0
"""A controller that answers no ping for so long hangs, if its process is still there."""
_ADVICE = "Its log is in the home's folder logs."


def passed_on(
    function: Callable[Concatenate[Controller, P], Coroutine[Any, Any, T]], **here: Callable[[Any], Any]
) -> Callable[Concatenate[RemoteController, P], Coroutine[Any, Any, T]]:
    """The same method, carried out where the controller is.

    Args:
        here: for arguments that mean something on this side (files), by name, what makes of them what means the same
            everywhere.
    """
    method = Method.of(function)

    async def call(self: RemoteController, /, *arguments: P.args, **named: P.kwargs) -> T:
        given = dict(zip(method.order, arguments, strict=False)) | named
        for name in given.keys() & here.keys():
            given[name] = await asyncio.to_thread(here[name], given[name])
        result: T = await self.call(method, given)
        return result

    return call


def _absolute(source: str) -> str:
    """A path of this side as the controller can find it, whatever its working directory; anything else as it is."""
    path = Path(source).expanduser()
    try:
        return str(path.resolve()) if path.exists() else source
    except OSError:
        return source


class RemoteController:
    """The methods that commands use, under the controller's names and with its types.

    Belongs to the loop on which it was opened.
    """

    def __init__(
        self, home: Home, address: DoorAddress, socket: zmq.asyncio.Socket, context: zmq.asyncio.Context
    ) -> None:
        self.home = home
        self.pid = address.pid
        self._address = address
        self._socket, self._context = socket, context
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Pending] = {}
        self._heard_at = asyncio.get_running_loop().time()
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def find(cls, home: Home) -> RemoteController | None:
        """The controller that runs in this home; None when there is none, or it does not answer.

        Raises BadInput when it is of another version.
        """
        address = await asyncio.to_thread(DoorAddress.read, home)
        if address is None or not await _listens(address):
            return None
        identity = await asyncio.to_thread(ControllerIdentity.of, home)
        context = zmq.asyncio.Context()
        socket = controller_socket(context, identity.keys, identity.keys.public, b"", "control")
        socket.setsockopt(zmq.MAXMSGSIZE, MAX_BYTES)
        socket.connect(address.address)
        remote = cls(home, address, socket, context)
        try:
            await socket.send(encode(Hello(VERSION)))
            async with asyncio.timeout(HELLO_SECONDS):
                welcome = read_answer(await socket.recv())
        except (TimeoutError, msgspec.DecodeError):
            context.destroy(linger=0)
            return None
        except BaseException:
            context.destroy(linger=0)
            raise
        if not isinstance(welcome, Welcome) or welcome.version != VERSION or welcome.software != __version__:
            context.destroy(linger=0)
            told = f"Shardboard {welcome.software}" if isinstance(welcome, Welcome) else "Another Shardboard"
            raise BadInput(
                f"{told} is running (process {address.pid}), and this command is of {__version__}.",
                "Use the command of the one that runs, or close it.",
            )
        remote._tasks = [asyncio.create_task(remote._receive()), asyncio.create_task(remote._ping())]
        return remote

    async def close(self) -> None:
        """Leave. What this command still waits for is cancelled."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(zmq.ZMQError):
            await self._socket.send(encode(Bye()))
        self._socket.close(linger=500)
        await asyncio.to_thread(self._context.term)

    async def generate(
        self,
        model: str,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
        *,
        origin: Origin = UNKNOWN,
    ) -> RemoteRun:
        """As the controller's: begins at once; follow it by iterating."""
        values = (parameters or GenerationParameters()).to_json()
        return RemoteRun(self, {"model": model, "prompt": prompt, "parameters": values, "origin": origin})

    add_demo_model = passed_on(Controller.add_demo_model)
    add_model = passed_on(Controller.add_model, source=_absolute)
    add_node = passed_on(Controller.add_node)
    cancel_job = passed_on(Controller.cancel_job)
    change_settings = passed_on(Controller.change_settings)
    cut_model = passed_on(Controller.cut_model, name_or_path=_absolute, output_dir=Path.resolve)
    deploy = passed_on(Controller.deploy)
    hand_over = passed_on(Controller.hand_over)
    drain_node = passed_on(Controller.drain_node)
    follow_job = passed_on(Controller.follow_job)
    heard_of_nodes = passed_on(Controller.heard_of_nodes)
    inspect_model = passed_on(Controller.inspect_model, name_or_path=_absolute)
    invite = passed_on(Controller.invite)
    link_findings = passed_on(Controller.link_findings)
    launch_local = passed_on(Controller.launch_local)
    list_models = passed_on(Controller.list_models)
    list_nodes = passed_on(Controller.list_nodes)
    measure_links = passed_on(Controller.measure_links)
    measure_model = passed_on(Controller.measure_model)
    measurements = passed_on(Controller.measurements)
    node_memory = passed_on(Controller.node_memory)
    plan = passed_on(Controller.plan)
    prune = passed_on(Controller.prune)
    read_agent_log = passed_on(Controller.read_agent_log)
    remove_model = passed_on(Controller.remove_model)
    remove_node = passed_on(Controller.remove_node)
    retry_job = passed_on(Controller.retry_job)
    start_agent = passed_on(Controller.start_agent)
    stop_agent = passed_on(Controller.stop_agent)
    stop_agents = passed_on(Controller.stop_agents)
    stopped_agents = passed_on(Controller.stopped_agents)
    undeploy = passed_on(Controller.undeploy)

    # --- within ---

    async def call(self, method: Method, given: Mapping[str, Any]) -> Any:
        """Call a method with its arguments by name, and wait for its result, while its callbacks are called here."""
        callbacks = {name: given[name] for name in method.callbacks if given.get(name) is not None}
        arguments = {name: pack(value) for name, value in given.items() if name not in method.callbacks}
        arguments |= {name: pack(None) for name in callbacks}

        def told(message: Told) -> None:
            if (callback := callbacks.get(message.name)) is not None:
                callback(unpack(message.value, method.callbacks[message.name]))

        return unpack(await self.ask(method.name, arguments, told), method.result)

    async def ask(self, method: str, arguments: dict[str, msgspec.Raw], told: Callable[[Told], None]) -> msgspec.Raw:
        """Call, and wait for the result. Cancelling cancels it there, and waits until it has cleaned up."""
        pending = _Pending(told, asyncio.get_running_loop().create_future())
        id = next(self._ids)
        self._waiting[id] = pending
        await self._socket.send(encode(Call(id, method, arguments)))
        try:
            return await asyncio.shield(pending.result)
        except asyncio.CancelledError:
            if not pending.result.done():
                await self._socket.send(encode(Cancel(id)))
                with contextlib.suppress(ShardboardError):
                    await pending.result
            raise
        finally:
            self._waiting.pop(id, None)

    async def _receive(self) -> None:
        while True:
            data = await self._socket.recv()
            self._heard_at = asyncio.get_running_loop().time()
            try:
                self._received(read_answer(data))
            except Exception as error:  # it would end this task, and everything would wait for ever
                log.exception("an answer of the controller cannot be used")
                self._fail(ShardboardError(f"An answer of the controller cannot be used: {error}.", "See the log."))

    def _received(self, message: ToCommand) -> None:
        pending = self._waiting.get(message.id) if isinstance(message, Told | Result | Failure) else None
        if isinstance(message, Lost):
            self._fail(
                ShardboardError(
                    "The connection to the controller was broken for long, and what this command asked for cancelled.",
                    "Give the command again.",
                )
            )
        if pending is not None:
            match message:
                case Told():
                    pending.told(message)
                case Result(value=value) if not pending.result.done():
                    pending.result.set_result(value)
                case Failure() if not pending.result.done():
                    pending.result.set_exception(error_of(message))

    async def _ping(self) -> None:
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._socket.send(encode(Ping()))
            silent = asyncio.get_running_loop().time() - self._heard_at
            if silent > PING_SECONDS and await asyncio.to_thread(DoorAddress.read, self.home) != self._address:
                self._fail(ShardboardError(f"The controller (process {self.pid}) ended in the middle of it.", _ADVICE))
            elif silent > SILENCE_SECONDS:
                hangs = f"The controller (process {self.pid}) has not answered for {silent:.0f} s: it hangs."
                self._fail(ShardboardError(hangs, _ADVICE))

    def _fail(self, error: ShardboardError) -> None:
        """Nothing that is waited for will come."""
        for pending in self._waiting.values():
            if not pending.result.done():
                pending.result.set_exception(error)


class _Pending:
    """A call under way."""

    def __init__(self, told: Callable[[Told], None], result: asyncio.Future[msgspec.Raw]) -> None:
        self.told, self.result = told, result


class RemoteRun:
    """A request that runs in another process. Iterate over it once for its events; the last one is Finished."""

    def __init__(self, remote: RemoteController, arguments: Mapping[str, Any]) -> None:
        self.id = 0
        """Its number, once the controller has begun it: before its first event."""
        self._events: asyncio.Queue[RequestEvent | BaseException] = asyncio.Queue()
        packed = {"arguments": pack(arguments)}
        self._task = asyncio.get_running_loop().create_task(self._follow(remote, packed))

    async def __aiter__(self) -> AsyncIterator[RequestEvent]:
        while True:
            event = await self._events.get()
            if isinstance(event, BaseException):
                raise event
            yield event
            if isinstance(event, Finished):
                return

    async def cancel(self) -> None:
        """End it. Its last event still comes."""
        self._task.cancel()

    async def _follow(self, remote: RemoteController, arguments: dict[str, msgspec.Raw]) -> None:
        try:
            await remote.ask("generate", arguments, self._told)
        except asyncio.CancelledError:
            return  # its end was told
        except Cancelled:
            return
        except ShardboardError as error:
            self._events.put_nowait(error)

    def _told(self, message: Told) -> None:
        if message.name == REQUEST_ID:
            self.id = unpack(message.value, int)
        elif (event := EVENTS.get(message.name)) is not None:
            self._events.put_nowait(unpack(message.value, event))


async def _listens(address: DoorAddress) -> bool:
    """Whether anything does: ZeroMQ would go on trying, and a file may have been left behind by a crash."""
    endpoint = Endpoint.parse(address.address)
    try:
        _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except OSError:
        return False
    writer.close()
    return True
