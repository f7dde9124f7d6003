"""The agent's command line: what can be set, what it is by itself, and what is said when it is wrong."""

from __future__ import annotations

import argparse
import re
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from worker_agent import __version__
from worker_agent.host.home import AgentHome, default_home
from worker_agent.host.owner import Hours, OwnerRules
from worker_agent.wire.announcing import network_address
from worker_agent.wire.errors import AgentError
from worker_agent.wire.keys import Invitation, check_key
from worker_agent.wire.links import DEFAULT_PORT, Endpoint

T = TypeVar("T")

_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}
_LOG_LEVELS = ("debug", "info", "warning", "error")


class BadOption(AgentError):
    """An option's value cannot be used."""

    kind = "option"


@dataclass(frozen=True)
class Options:
    """What the user asked for. None means: choose for me."""

    listen: Endpoint
    home: Path
    device: str | None
    threads: int | None
    borrowed_threads: int | None
    memory: int | None
    store_limit: int | None
    trust: tuple[str, ...]
    join: Invitation | None
    wait: bool
    name: str
    owner: OwnerRules
    log_level: str
    ready_file: Path | None
    print_key: bool
    service: Literal["install", "remove"] | None
    end_with_input: bool = False


def read_options(arguments: Sequence[str] | None = None) -> Options:
    """Read the command line.

    Raises:
        AgentError: a value cannot be used; the text names the option.
        SystemExit: for --help, --version and unknown options, as argparse does.
    """
    given = _parser().parse_args(arguments)
    join = _named("--join", Invitation.decode, given.join) if given.join else None
    home = _place("--home", given.home)
    if join is not None and given.wait:
        raise BadOption("--wait and --join contradict each other: who is invited has been found. Leave one out.")
    listen = (
        _named("--listen", _listen, given.listen)
        if given.listen
        else _default_listen(join, AgentHome(home), wait=given.wait)
    )
    return Options(
        listen=listen,
        home=home,
        device=given.device,
        threads=_positive("--threads", given.threads),
        borrowed_threads=_positive("--borrowed-threads", given.borrowed_threads),
        memory=_named("--memory", parse_size, given.memory) if given.memory else None,
        store_limit=_named("--store-limit", parse_size, given.store_limit) if given.store_limit else None,
        trust=tuple(_named("--trust", check_key, key) for key in given.trust),
        join=join,
        wait=given.wait,
        name=(given.name or socket.gethostname())[:200],
        owner=OwnerRules(
            cpu=_percent("--yield-cpu", given.yield_cpu),
            memory=_named("--yield-memory", parse_size, given.yield_memory) if given.yield_memory else None,
            battery=given.yield_on_battery,
            hours=_named("--yield-hours", Hours.parse, given.yield_hours) if given.yield_hours else None,
        ),
        log_level=given.log_level,
        ready_file=_place("--ready-file", given.ready_file) if given.ready_file else None,
        print_key=given.print_key,
        end_with_input=given.end_with_input,
        service="install" if given.install_service else "remove" if given.remove_service else None,
    )


def parse_size(text: str) -> int:
    """Bytes from `4GB`, `512 MiB`, `1.5g` or plain digits. Raises BadOption."""
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?I?)B?\s*", text.upper())
    if match is None or match[2] not in _UNITS:
        raise BadOption(f"'{text}' is no size: write for example 4GB or 512MiB.")
    size = int(float(match[1]) * _UNITS[match[2]])
    if size == 0:
        raise BadOption("the size has to be more than 0.")
    return size


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m worker_agent",
        description="Lend this machine to a Shardboard controller: hold layers of a model and run them.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--listen", metavar="HOST:PORT", help="address to be reached at; port 0 is any free one (default: where a "
        f"controller has taken it in, else 127.0.0.1:{DEFAULT_PORT}; with --join, this machine's address towards the "
        "controller; with --wait, its address in its network)")  # fmt: skip
    add("--home", metavar="DIR", default=str(default_home()), help="state: keys, layers, log (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, mps, … (default: the first GPU, else cpu)")
    add("--threads", type=int, help="CPU threads; of k agents on one machine each gets its share "
        "(default: all cores that the process may use, or OMP_NUM_THREADS)")  # fmt: skip
    add("--borrowed-threads", type=int, help="CPU threads for a step that no other agent computes beside "
        "(default: all cores that the process may use, or OMP_NUM_THREADS)")  # fmt: skip
    add("--memory", metavar="SIZE", help="most memory for stages, as 4GB (default: 80 %% of what is free)")
    add("--store-limit", metavar="SIZE", help="most disk space for layers (default: what the disk has)")
    add("--trust", metavar="PUBLIC_KEY", action="append", default=[],
        help="obey the controller with this public key from now on; write --trust=KEY")  # fmt: skip
    add("--join", metavar="INVITATION", help="join the controller that made this invitation")
    add("--wait", action="store_true", help="wait to be found: say on the network that this machine is there, and obey "
        "the controller that takes it in when the codes at both ends are the same")  # fmt: skip
    add("--name", help="what the controller shows (default: this machine's name)")
    add("--yield-cpu", type=int, metavar="PERCENT", help="leave the machine to its owner while other programs use more "
        "of the CPU: its stages move to other nodes, or go on slowly")  # fmt: skip
    add("--yield-memory", metavar="SIZE", help="the same while less memory is free, as 2GB")
    add("--yield-on-battery", action="store_true", help="the same while it runs on its battery")
    add("--yield-hours", metavar="H:MM-H:MM", help="the same at these times of each day, as 9:00-17:30")
    add("--log-level", choices=_LOG_LEVELS, default="info", help="default: %(default)s")
    add("--ready-file", metavar="PATH", help="written once the agent listens: JSON with its address and public key")
    add("--end-with-input", action="store_true", help="end when standard input is closed: when what started it ends")
    add("--print-key", action="store_true", help="print this agent's public key and end")
    service = parser.add_mutually_exclusive_group()
    service.add_argument("--install-service", action="store_true", help="have the system start the agent with these "
        "options when you log in, from now on (systemd, launchd or Windows' tasks), and end")  # fmt: skip
    service.add_argument("--remove-service", action="store_true", help="take that back, and end")
    add("--version", action="version", version=f"Shardboard agent {__version__}")
    return parser


def _listen(text: str) -> Endpoint:
    return Endpoint.parse(text, to_listen=True)


def _default_listen(join: Invitation | None, home: AgentHome, *, wait: bool) -> Endpoint:
    """Without a word from the user: the address that leads to the inviting controller, the one where a controller has
    taken this agent in, this machine's in its network for one that waits to be found, or only this machine."""
    if join is None:
        last = home.last_endpoint()
        if last is not None or not wait:
            return last or Endpoint("127.0.0.1", DEFAULT_PORT)
        address = network_address()
        if address is None:
            raise BadOption("--wait: this machine is in no network. Connect it to one, or give --listen HOST:PORT.")
        return Endpoint(address, DEFAULT_PORT)
    controller = Endpoint.parse(join.address)
    try:
        family, kind, _, _, target = socket.getaddrinfo(controller.host, controller.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind) as probe:
            probe.connect(target)  # sends nothing: it only asks the system which address it would use
            return Endpoint(str(probe.getsockname()[0]), DEFAULT_PORT)
    except OSError as error:
        raise BadOption(
            f"--join: no way leads to the controller at {controller} ({error}). Is the network up?"
        ) from error


def _named(option: str, parse: Callable[[str], T], text: str) -> T:
    """What `parse` makes of an option's value; its error names the option."""
    try:
        return parse(text)
    except AgentError as error:
        raise BadOption(f"{option}: {error}") from error


def _place(option: str, text: str) -> Path:
    try:
        return Path(text).expanduser().resolve()
    except FileNotFoundError as error:
        raise BadOption(
            f"{option}: {text} leads nowhere, since the folder that this was started in has been removed. "
            "Give a whole path."
        ) from error


def _percent(option: str, number: int | None) -> int | None:
    if number is not None and not 1 <= number <= 100:
        raise BadOption(f"{option}: {number} is no percentage from 1 to 100.")
    return number


def _positive(option: str, number: int | None) -> int | None:
    if number is not None and number < 1:
        raise BadOption(f"{option}: {number} is too few; at least 1 is needed.")
    return number
