"""The HTTP server on the controller's own loop: uvicorn, listening where the settings say, ending in good order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.api.application import make_application
from app.api.hosts import EVERYWHERE
from app.api.keys import ADVICE
from app.controller_settings import ServerSettings
from app.errors import BadInput
from app.jobs.works import DeployForRequestsWork

if TYPE_CHECKING:
    from app.controller import Controller
    from app.inference.request_run import RequestRun
    from app.jobs.job import Job

log = logging.getLogger(__name__)

KEEP_ALIVE_SECONDS = 30
HEAD_SECONDS = 10.0
"""A request's headers must be there by then, counted from its first byte or from the connection."""
STALLED_SECONDS = 60.0
"""A client that reads nothing for so long, while there is something to read, is gone for us."""
MOST_CONNECTIONS = 900
"""Below the 1,024 files that many systems let a process open."""
BACKLOG = 512
PARTING_SECONDS = 2.0
"""For streams that were cancelled to tell their clients so."""


class ApiServer:
    """One server. `start` and `stop` once each; for other settings make another. Belongs to the controller's loop."""

    def __init__(self, controller: Controller, settings: ServerSettings) -> None:
        self._controller, self._settings = controller, settings
        self._application = make_application(controller, settings)
        self._gate = self._application.state.gate
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen and begin to answer.

        Raises BadInput: the address cannot be had, it demands a key and there is none, or an origin cannot be allowed.
        """
        self._settings.check_origins()
        access = self._application.state.access
        if access.demands_key and not await self._controller.registry.call(lambda known: known.api_keys.list()):
            raise BadInput(
                f"The server would listen on {self._settings.host} and demand an API key, but there is none.", ADVICE
            )
        self._socket = await _listen(self._settings.host, self._settings.port)
        config = uvicorn.Config(
            self._application,
            http=_Connection,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=MOST_CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=1,
            backlog=BACKLOG,
        )
        self._server = _Server(config)
        self._application.state.metrics.open()
        self._serving = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http server")
        while not self._server.started:
            if self._serving.done():
                self._serving.result()  # raises what went wrong
                raise BadInput(f"The server at {self.url} ended at once.", "The log says why.")
            await asyncio.sleep(0.01)
        log.info("the HTTP server listens at %s", self.url)

    @property
    def url(self) -> str:
        """Where a browser on this machine finds it."""
        host, port = self._settings.host, self._settings.port
        if self._socket is not None and self._socket.fileno() != -1:
            port = self._socket.getsockname()[1]
        name = "127.0.0.1" if host in EVERYWHERE else host.strip("[]")
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    @property
    def is_running(self) -> bool:
        return self._serving is not None and not self._serving.done()

    @property
    def streams(self) -> int:
        """Answers that are being streamed."""
        streams: int = self._gate.streams
        return streams

    async def stop(self, deadline: float = 10.0) -> None:
        """Begin nothing new, let what is under way end, cancel what is not over after `deadline` seconds.

        What is cancelled are answers, requests that came in over HTTP, and jobs that were begun over HTTP.
        """
        if self._server is None or self._serving is None:
            return
        self._gate.draining = True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(deadline):
                await self._gate.wait_idle()
                await asyncio.gather(*(run.wait() for run in self._runs()))  # those that nobody follows, too
        await asyncio.gather(*(run.cancel() for run in self._runs()), self._controller.jobs.cancel_all(_over_http))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PARTING_SECONDS):
                await self._gate.wait_idle()
        self._server.should_exit = True
        await self._serving
        self._server.abort()
        self._application.state.downloads.close()
        await self._application.state.metrics.close()
        log.info("the HTTP server has ended")

    def _runs(self) -> list[RequestRun]:
        """Requests under way that came in over HTTP."""
        return [run for run in self._controller.inference.running() if run.record.origin.get("via") == "http"]


def _over_http(job: Job) -> bool:
    """Begun over HTTP. What requests have loaded ends with the last of them, which may be another's than HTTP's."""
    return job.origin.via == "http" and not isinstance(job.work, DeployForRequestsWork)


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: this process is the controller's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def abort(self) -> None:
        """Cut connections that are still open, whatever is on its way."""
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.abort()


class _Connection(H11Protocol):
    """uvicorn's connection with patience that ends: it has none for headers that dribble in or a client that stalls."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its base has it
        super().connection_made(transport)
        self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._forget_head()
        elif self._head is None:
            self._await_head()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._stalled is None:
            self._await_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._forget_stall()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_head()
        self._forget_stall()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def _await_reader(self) -> None:
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._look_at_reader, self._unread)

    def _look_at_reader(self, unread_before: int) -> None:
        """Who reads slowly is not gone: a long answer may take longer than anybody's patience."""
        if self._unread < unread_before:
            self._await_reader()
        else:
            self.transport.abort()

    @property
    def _unread(self) -> int:
        return self.transport.get_write_buffer_size()

    def _forget_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _forget_stall(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


async def _listen(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises BadInput that says why not, and what to do."""
    where = f"{host}, port {port}"
    try:
        found = await asyncio.get_running_loop().getaddrinfo(
            host.strip("[]") or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise BadInput(
            f"The server cannot listen on {where}: {error.strerror or error}.",
            "Give an address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 all its networks.",
        ) from error
    family, kind, protocol, _, address = found[0]
    listener = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # on Windows the option would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6 and host in EVERYWHERE:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        listener.setblocking(False)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise BadInput(f"The server cannot listen on {where}: {_reason(error)}.", _advice(error)) from error
    return listener


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "another program listens there already"
    if error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address"
    return (error.strerror or str(error)).rstrip(".")


def _advice(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "End that program, or choose another port; 0 takes any that is free."
    if error.errno == errno.EACCES:
        return "Ports below 1024 need special rights: choose a higher one."
    return "Give an address of this machine; 127.0.0.1 is this machine alone, 0.0.0.0 all its networks."
