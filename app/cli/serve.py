"""`serve`: the controller without a window, for commands and over HTTP, until it is told to end."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from app.cli.options import read_amounts
from app.cli.output import note
from app.cli.session import origin
from app.cli.systemd import INSTALL, cannot_read, service_unit
from app.controller_settings import ServerSettings
from app.errors import BadInput, ShardboardError
from app.launchers.launcher import RayWish
from app.logs import log_to_file
from app.paths import Home
from app.registry import NodeRecord

if TYPE_CHECKING:
    from app.api.server import ApiServer
    from app.controller import Controller

log = logging.getLogger(__name__)

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGBREAK") if hasattr(signal, name))
POLL_SECONDS = 0.2
RAY_SECONDS = 900.0
"""How long Ray's nodes may take to come: images are pulled, machines are rented."""


def register(app: typer.Typer) -> None:
    app.command()(serve)


@dataclass(frozen=True)
class Wishes:
    """What `serve` was asked for."""

    http: bool
    host: str | None
    port: int | None
    local_agents: int
    ray: RayWish | None
    deploy: tuple[str, ...]
    drain_seconds: float


def serve(
    host: Annotated[
        str | None, typer.Option(help="Where to listen. [default: as in the settings, else 127.0.0.1]")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="0: any free one. [default: as in the settings, else 7878]")
    ] = None,
    http: Annotated[bool, typer.Option("--http/--no-http", help="Without HTTP it serves commands only.")] = True,
    local_agents: Annotated[int, typer.Option(min=0, max=64, help="See that so many agents run on this machine.")] = 0,
    ray: Annotated[
        int, typer.Option(min=0, help="See that so many nodes of the Ray cluster that this machine is in run an agent.")
    ] = 0,
    ray_resource: Annotated[
        list[str] | None, typer.Option(metavar="NAME=AMOUNT", help="With --ray: as `ray up --resource`.")
    ] = None,
    ray_idle: Annotated[float | None, typer.Option(min=1, help="With --ray: as `ray up --idle`.")] = None,
    deploy: Annotated[
        list[str] | None, typer.Option(help="Deploy this model unless it is; may be repeated. 'demo': a small one.")
    ] = None,
    drain_seconds: Annotated[
        float, typer.Option(min=0, help="How long answers may go on when it is told to end.")
    ] = 30.0,
    systemd: Annotated[
        bool, typer.Option("--systemd", help="Print a systemd unit for this installation, and end.")
    ] = False,
) -> None:
    """Run the controller without a window: for commands, and over HTTP. Ctrl-C or SIGTERM ends it in good order."""
    if systemd:
        typer.echo(service_unit(host, port, drain_seconds))
        note(cannot_read() or INSTALL)
        return
    amounts = read_amounts(ray_resource or (), "--ray-resource")
    if not ray and (amounts or ray_idle):
        raise BadInput("--ray-resource and --ray-idle say how Ray brings agents.", "Say how many: --ray 2")
    wish = RayWish(ray, resources=amounts, idle_seconds=ray_idle, wait_seconds=RAY_SECONDS) if ray else None
    wishes = Wishes(http, host, port, local_agents, wish, tuple(deploy or ()), drain_seconds)
    home = Home.find().create()
    log_to_file(home)
    _log_to_terminal()
    asyncio.run(_Service(home, wishes).run())


class _Service:
    """One run of `serve`. The first signal ends it in good order, the second at once."""

    def __init__(self, home: Home, wishes: Wishes) -> None:
        self._home, self._wishes = home, wishes
        self._told = 0
        self._ending = asyncio.Event()
        self._at_once = asyncio.Event()

    async def run(self) -> None:
        """Until a signal. Raises ShardboardError when it cannot begin."""
        from app.control.server import ControlServer
        from app.controller import Controller

        self._watch_signals()
        controller = await Controller.open(self._home)
        try:
            door = ControlServer(controller)
            await door.open()
            await controller.take_back()
            server: ApiServer | None = None
            try:
                server = await self._serve_http(controller)
                beginning = asyncio.create_task(self._prepare(controller))
                _tell_systemd("READY=1")
                alive = asyncio.create_task(_watchdog())
                await self._ending.wait()
                _tell_systemd("STOPPING=1")
                alive.cancel()
                beginning.cancel()
                await asyncio.gather(alive, beginning, return_exceptions=True)
            finally:
                await self._drain(controller, server)
                await door.close()
        finally:
            await controller.close()
        note("Ended.")

    async def _serve_http(self, controller: Controller) -> ApiServer | None:
        if not self._wishes.http:
            note("Serving commands on this machine. Ctrl-C ends it.")
            return None
        from app.api.server import ApiServer

        changes = {name: value for name in ("host", "port") if (value := getattr(self._wishes, name)) is not None}
        settings: ServerSettings = msgspec.structs.replace(controller.settings.server, **changes)
        server = ApiServer(controller, settings)
        await server.start()
        note(f"Serving at {server.url} (OpenAI's API at {server.url}/v1). Ctrl-C ends it.")
        return server

    async def _prepare(self, controller: Controller) -> None:
        """Agents and deployments that were wished for. What fails is said, and the rest is served all the same."""
        from app.first_run import starting_text, take_local_agents

        def starting(count: int) -> None:
            note(starting_text(count))

        try:
            count = self._wishes.local_agents
            agents = await take_local_agents(controller, count, on_starting=starting, origin=origin())
            nodes = [*agents.nodes, *await self._take_ray(controller)]
            for model in self._wishes.deploy:
                await self._deploy(controller, model, nodes)
        except ShardboardError as error:
            note(f"{error}")
            log.error("%s", error)

    async def _take_ray(self, controller: Controller) -> list[NodeRecord]:
        from app.launching import launch

        wish = self._wishes.ray
        if wish is None:
            return []
        note(f"{wish.title}.")
        return await launch(controller, wish, origin=origin())

    async def _deploy(self, controller: Controller, model: str, nodes: Sequence[NodeRecord]) -> None:
        from app.first_run import deploy_over

        get = controller.library.get
        found = await (controller.add_demo_model(origin=origin()) if model == "demo" else asyncio.to_thread(get, model))
        name = found.name
        if not await controller.deployments.ready(name):
            note(f"Deploying {name}.")
            if nodes:
                await deploy_over(controller, name, [node.id for node in nodes], origin=origin())
            else:
                await controller.deploy(name, origin=origin())
        note(f"{name} is deployed.")

    async def _drain(self, controller: Controller, server: ApiServer | None) -> None:
        """Let answers come to their end, for as long as was allowed or until a second signal."""
        running = len(controller.inference.running())
        if running:
            requests = "request" if running == 1 else "requests"
            note(f"Waiting for {running} {requests}, for {self._wishes.drain_seconds:g} s at most.")
        work = [self._until_idle(controller)]
        if server is not None:
            work.append(server.stop(self._wishes.drain_seconds))
        draining: asyncio.Future[Any] = asyncio.gather(*work)
        hurry: asyncio.Future[Any] = asyncio.ensure_future(self._at_once.wait())
        await asyncio.wait([draining, hurry], return_when=asyncio.FIRST_COMPLETED)
        if not draining.done():
            note("Ending at once.")
            draining.cancel()
            await asyncio.gather(*(run.cancel() for run in controller.inference.running()))
            if server is not None:
                await server.stop(0.0)
        hurry.cancel()
        await asyncio.gather(draining, hurry, return_exceptions=True)

    async def _until_idle(self, controller: Controller) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._wishes.drain_seconds
        while controller.inference.running() and loop.time() < deadline:
            await asyncio.sleep(POLL_SECONDS / 2)

    # --- signals ---

    def _watch_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            try:
                loop.add_signal_handler(number, self._on_signal)
            except NotImplementedError:  # Windows: the handler runs in the main thread, between two of the loop's waits
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._on_signal))

    def _on_signal(self) -> None:
        self._told += 1
        (self._ending if self._told == 1 else self._at_once).set()


def _log_to_terminal() -> None:
    """Warnings go to stderr, too: systemd's journal and `docker logs` show them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)


def _tell_systemd(state: str) -> None:
    """The notification protocol of systemd's Type=notify: one datagram to the socket that it names."""
    named = os.environ.get("NOTIFY_SOCKET")
    if not named or not hasattr(socket, "AF_UNIX"):
        return
    address = f"\0{named[1:]}" if named.startswith("@") else named
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        try:
            channel.sendto(state.encode("ascii"), address)
        except OSError as error:
            log.warning("systemd could not be told %s: %s", state, error)


async def _watchdog() -> None:
    """Tell systemd that the loop turns, twice in each of its periods, where it asks for that."""
    period = int(os.environ.get("WATCHDOG_USEC", "0")) / 1_000_000
    while period:
        _tell_systemd("WATCHDOG=1")
        await asyncio.sleep(period / 2)
