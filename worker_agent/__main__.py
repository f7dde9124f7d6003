"""`python -m worker_agent`: start the agent, serve, leave.

What can be wrong is found out first (options, key, state folder, port); torch, which takes seconds, comes last.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from worker_agent import __version__
from worker_agent.engine.runtime import Runtime, set_up_kernels
from worker_agent.host import autostart
from worker_agent.host.home import AgentHome
from worker_agent.host.joining import join
from worker_agent.host.log_file import open_log, read_tail
from worker_agent.host.options import BadOption, Options, read_options
from worker_agent.host.switchboard import Switchboard
from worker_agent.host.waiting import NotFound, say, wait_to_be_found
from worker_agent.process import interrupt_on_terminate, settle
from worker_agent.wire.errors import AgentError
from worker_agent.wire.files import write_private
from worker_agent.wire.keys import Invitation, KeyPair, TrustedControllers, key_fingerprint
from worker_agent.wire.links import Endpoint, PortInUse

if TYPE_CHECKING:
    from worker_agent.host.agent import Agent

log = logging.getLogger("worker_agent")

_BAD_START = 2
_JOIN_FAILED = 3
_PORT_SECONDS = 1.0
SWITCH_SECONDS = 0.00005
"""How long a thread may keep the interpreter to itself: a step that arrives must not wait 5 ms for its thread."""
_STOP_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGBREAK")
"""SIGHUP comes when its terminal is closed; with `nohup` it is ignored, and stays so."""


def main() -> None:
    """The command."""
    settle()
    _leave(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run an agent; returns the exit status: 0 stopped, 2 could not start, 3 could not join, 70 compute died."""
    try:
        options = read_options(arguments)
        home = AgentHome(options.home)
        home.create()
        os.chdir(home.root)  # where it was started may vanish, and torch's libraries cannot be loaded from nowhere
        keys = KeyPair.load_or_create(home.root)
        if options.print_key:
            print(keys.public)
            return 0
        if options.service is not None:
            print(_change_service(options, home, arguments))
            return 0
        lock = home.lock()
        open_log(home.log, options.log_level)
        trusted = {*TrustedControllers(home.controllers).keys, *options.trust}
        if options.wait and not trusted:
            board = _open_board(home, keys, _be_found(options, home, keys))
        else:
            board = Switchboard(home, keys, options.listen)
        if options.wait and trusted:
            log.warning(
                "not waiting to be found: this agent obeys a controller already (%s); to be found by another one, "
                "delete %s", ", ".join(map(key_fingerprint, sorted(trusted))), home.controllers,
            )  # fmt: skip
    except AgentError as error:
        print(f"worker_agent: {error}", file=sys.stderr)
        return _JOIN_FAILED if isinstance(error, NotFound) else _BAD_START
    except KeyboardInterrupt:  # while it waited to be found
        return 0
    try:
        return _serve(options, home, board)
    except AgentError as error:
        log.error("%s", error)
        return _BAD_START
    finally:
        board.close()
        lock.close()


def _change_service(options: Options, home: AgentHome, arguments: Sequence[str]) -> str:
    """Install the service or remove it; what there is to say."""
    if options.service == "remove":
        return autostart.remove(autostart.service_name(home.root))
    if not TrustedControllers(home.controllers).keys and options.join is None and not options.trust:
        raise BadOption(
            "--install-service: no controller is trusted yet, and a service has no terminal to ask in. Add "
            "--join INVITATION or --trust=PUBLIC_KEY."
        )
    return autostart.install(autostart.AgentService.of(home.root, arguments), lambda: home.lock().close())


def _be_found(options: Options, home: AgentHome, keys: KeyPair) -> Endpoint:
    """Wait until a controller has met this agent, and trust that; where it is to listen then."""
    interrupt_on_terminate()
    found = wait_to_be_found(keys, options.listen, options.name)
    TrustedControllers(home.controllers).add(found.public_key, name=found.controller)
    home.remember(found.endpoint)
    say(f"This machine belongs to {found.controller} from now on. The agent starts.")
    return found.endpoint


def _open_board(home: AgentHome, keys: KeyPair, listen: Endpoint) -> Switchboard:
    """The port was that of the wait a moment ago, and some systems let go of one slowly."""
    deadline = time.monotonic() + _PORT_SECONDS
    while True:
        try:
            return Switchboard(home, keys, listen)
        except PortInUse:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def _serve(options: Options, home: AgentHome, board: Switchboard) -> int:
    for key in options.trust:
        board.controllers.add(key)
    sys.setswitchinterval(SWITCH_SECONDS)
    set_up_kernels()
    stopping = _Stopping()
    runtime = _choose_runtime(options)
    agent = _make_agent(options, home, board, runtime)
    stopping.attach(lambda: agent.stop())
    if options.end_with_input:
        threading.Thread(target=_end_with_input, args=(agent,), name="end-with-input", daemon=True).start()
    log.info(
        "Shardboard agent %s listens on %s with the key %s (%s, %d threads, process %d)",
        __version__, board.endpoint, board.keys.public, runtime.device, runtime.threads, os.getpid(),
    )  # fmt: skip
    if board.endpoint.is_everywhere:
        log.warning("listening on every network of this machine, as asked for")
    if not board.controllers.keys and options.join is None:
        log.warning("no controller is trusted yet: give --trust=PUBLIC_KEY, --join INVITATION or --wait")
    if options.join is not None:
        _join_beside(options.join, options.name, home, board, agent)
    if options.ready_file is not None:
        _announce(options.ready_file, board)
    try:
        status = agent.serve()
    finally:
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)
    log.info("the agent ends with status %d", status)
    return status


def _choose_runtime(options: Options) -> Runtime:
    """Imports torch. Raises BadOption for a device that is not there."""
    import torch

    if options.device is not None and options.device.startswith("cuda") and not torch.cuda.is_available():
        raise BadOption(
            f"--device: {options.device} cannot be used: this torch ({torch.__version__}) sees no NVIDIA GPU. "
            "Leave --device away for the CPU, or install a CUDA build of torch."
        )
    try:
        return Runtime.choose(options.device, options.threads, options.borrowed_threads)
    except RuntimeError as error:
        raise BadOption(f"--device: '{options.device}' is no device: {str(error).splitlines()[0]}") from error


def _make_agent(options: Options, home: AgentHome, board: Switchboard, runtime: Runtime) -> Agent:
    from worker_agent.model.imports import import_transformers

    import_transformers()
    from worker_agent.host.agent import Agent
    from worker_agent.host.among_agents import AmongAgents
    from worker_agent.host.budget import MemoryBudget
    from worker_agent.host.fetching import Fetcher
    from worker_agent.host.loader import Loader
    from worker_agent.host.owner import OwnerWatch
    from worker_agent.host.probing import Prober
    from worker_agent.host.service import AgentIdentity, Resources
    from worker_agent.host.speed import is_wanted
    from worker_agent.host.telemetry import Sample, Telemetry, default_budget
    from worker_agent.store.shard_store import ShardStore
    from worker_agent.store.storekeeper import Storekeeper
    from worker_agent.wire.callers import Callers

    shutil.rmtree(home.aside, ignore_errors=True)  # what an agent that was killed has left
    store = ShardStore(home.parts, options.store_limit)
    budget = MemoryBudget(options.memory or default_budget(runtime.device))
    telemetry = Telemetry(lambda: store.disk_free, store.files)
    if is_wanted():  # before anything is read: what the system has not in memory now shows the disk
        telemetry.disk.start()
    owner = OwnerWatch(options.owner, os.cpu_count() or 1)

    def sampled(sample: Sample, now: float) -> None:
        owner.look(sample, now)
        board.controllers.refresh()  # a controller whose key was taken away is obeyed no more, connected or not

    telemetry.on_sample = sampled
    resources = Resources(
        access=board.access,
        callers=Callers(),
        budget=budget,
        store=store,
        storekeeper=Storekeeper(store, partial(read_tail, home.log)),
        loader=Loader(store, budget, runtime, telemetry.settled_memory),
        telemetry=telemetry,
        peers=board.peers,
        among=AmongAgents(
            board.access,
            Prober(board.context, board.keys, board.access),
            Fetcher(board.context, board.keys, store),
        ),
        owner=owner,
        aside=home.aside,
    )
    identity = AgentIdentity(secrets.token_hex(8), board.keys.agent_id, options.name, runtime.numerics())
    return Agent(board, identity, runtime, resources)


def _join_beside(invitation: Invitation, name: str, home: AgentHome, board: Switchboard, agent: Agent) -> None:
    """Join in a thread of its own, so that the agent answers already when the controller looks at it."""

    def run() -> None:
        key = invitation.public_key
        known = key in board.controllers
        # the user has pasted the controller's key with the invitation; it may look at us before it says Joined
        board.controllers.vouch(key)
        try:
            joined = join(board.keys, invitation, hostname=name, port=board.endpoint.port)
        except AgentError as error:
            if known:
                log.warning("%s This agent goes on: it belongs to that controller already.", error)
                return
            board.controllers.disavow(key)
            log.error("%s", error)
            agent.stop(_JOIN_FAILED)
            return
        board.controllers.add(key, name=invitation.address)
        home.remember(board.endpoint)
        log.info("joined the controller at %s, which knows this agent as %s", invitation.address, joined.address)

    threading.Thread(target=run, name="joining", daemon=True).start()


def _end_with_input(agent: Agent) -> None:
    with suppress(OSError):
        while os.read(0, 4096):  # not `sys.stdin`: Python ends with an abort when a thread waits in that
            pass
    log.info("whoever started this agent is gone, and so it leaves")
    agent.stop()


def _announce(path: Path, board: Switchboard) -> None:
    announced = {
        "pid": os.getpid(),
        "address": board.endpoint.address,
        "public_key": board.keys.public,
        "agent": board.keys.agent_id,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    write_private(path, json.dumps(announced).encode())


class _Stopping:
    """Turns SIGTERM, Ctrl-C and Ctrl-Break into the agent's `stop`, also one that comes before there is an agent."""

    def __init__(self) -> None:
        self._stop: Callable[[], None] | None = None
        self._asked = False
        for name in _STOP_SIGNALS:
            number = getattr(signal, name, None)
            if number is not None and not (name == "SIGHUP" and signal.getsignal(number) == signal.SIG_IGN):
                signal.signal(number, self._ask)

    def attach(self, stop: Callable[[], None]) -> None:
        self._stop = stop
        if self._asked:
            stop()

    def _ask(self, number: int, frame: object) -> None:
        self._asked = True
        if self._stop is not None:
            self._stop()


def _leave(status: int) -> None:
    """End the process even if a thread is stuck in a computation that cannot be interrupted."""
    stuck = [thread for thread in threading.enumerate() if thread is not threading.main_thread() and thread.daemon]
    if stuck:
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


if __name__ == "__main__":
    main()
