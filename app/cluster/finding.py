"""Agents that wait to be found on this network: who announces one, while somebody looks.

What is found is a hint: anybody may announce anything. `meetings.py` makes sure of a key.
"""

from __future__ import annotations

import asyncio
import importlib
import ipaddress
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
import psutil

from app.errors import BadInput, NodeError
from worker_agent.wire.announcing import NO_LIBRARY, NO_MULTICAST, SERVICE, Announced
from worker_agent.wire.keys import key_fingerprint
from worker_agent.wire.links import Endpoint
from worker_agent.wire.messages import OLDEST_WIRE_VERSION, WIRE_VERSION

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf

MOST_FOUND = 200
"""A network where more wait is being played with."""
_ASK_MS = 2000


class WaitingAgent(msgspec.Struct, frozen=True):
    """What an agent that waits says of itself. Nothing of it is sure."""

    name: str
    address: str
    """`host:port`."""
    public_key: str
    wire_version: int

    @property
    def fingerprint(self) -> str:
        """What its terminal shows of its key."""
        return key_fingerprint(self.public_key)

    @property
    def problem(self) -> str:
        """Why it cannot be taken in; empty when it can."""
        if OLDEST_WIRE_VERSION <= self.wire_version <= WIRE_VERSION:
            return ""
        return "It runs another version of Shardboard; install the same on both machines."


async def find_waiting(
    seconds: float, on_found: Callable[[list[WaitingAgent]], None] = lambda found: None
) -> list[WaitingAgent]:
    """Look for so long; who waits in the end, by name.

    Args:
        on_found: told all that wait at the moment, whenever that changes.

    Raises NodeError without the library zeroconf, or on a network that cannot be asked.
    """
    try:
        zeroconf = await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")
    except ImportError as error:
        raise NodeError(NO_LIBRARY, "Or join by an invitation (node invite).", kind="internal") from error
    try:
        network = zeroconf.AsyncZeroconf()
    except OSError as error:
        raise NodeError(f"{NO_MULTICAST}: {error}.", "Use an invitation (node invite).", kind="internal") from error
    look = _Look(network.zeroconf, zeroconf.AsyncServiceInfo, on_found)
    try:
        zeroconf.AsyncServiceBrowser(network.zeroconf, [SERVICE], handlers=[look.heard])
        await asyncio.sleep(seconds)
        return look.found
    finally:
        look.close()
        await network.async_close()


def chosen(found: Sequence[WaitingAgent], wanted: str) -> WaitingAgent:
    """The one that is meant by a name, an address or the beginning of a key's fingerprint. Raises BadInput."""
    fitting = [
        agent for agent in found if wanted in (agent.name, agent.address) or agent.fingerprint.startswith(wanted)
    ]
    if len(fitting) == 1:
        return fitting[0]
    known = ", ".join(f"{agent.name} ({agent.address}, {agent.fingerprint})" for agent in found)
    if fitting:
        raise BadInput(f"'{wanted}' fits {len(fitting)} machines that wait: {known}.", "Name one by its key.")
    raise BadInput(
        f"No machine that waits is called '{wanted}'. {f'There wait: {known}.' if found else 'None waits here.'}",
        "Start an agent there with --wait, in the same network; or use an invitation (node invite).",
    )


class _Look:
    """Belongs to the loop, on which zeroconf calls it."""

    def __init__(self, network: Zeroconf, info: type, on_found: Callable[[list[WaitingAgent]], None]) -> None:
        self._network, self._info, self._on_found = network, info, on_found
        self._found: dict[str, WaitingAgent] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}

    @property
    def found(self) -> list[WaitingAgent]:
        return sorted(self._found.values(), key=lambda agent: (agent.name, agent.address))

    def heard(self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange) -> None:
        """Somebody has come, changed or gone. zeroconf names the arguments."""
        asked = self._asking.pop(name, None)
        if asked is not None:
            asked.cancel()
        if state_change.name == "Removed":
            if self._found.pop(name, None) is not None:
                self._on_found(self.found)
        elif len(self._asking) < MOST_FOUND and len(self._found) < MOST_FOUND:
            self._asking[name] = asyncio.create_task(self._ask(name))

    async def _ask(self, name: str) -> None:
        info = self._info(SERVICE, name)
        if not await info.async_request(self._network, _ASK_MS):
            return
        announced = Announced.read(name.removesuffix(f".{SERVICE}"), info.properties)
        addresses = [address for address in info.parsed_scoped_addresses() if _is_address(address)]
        if announced is None or not addresses or not info.port:
            return
        place = Endpoint(min(addresses, key=_distance), info.port)
        self._found[name] = WaitingAgent(announced.name, str(place), announced.public_key, announced.wire_version)
        self._on_found(self.found)

    def close(self) -> None:
        for task in self._asking.values():
            task.cancel()


def _is_address(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text.partition("%")[0]).is_unspecified
    except ValueError:
        return False


def _distance(text: str) -> tuple[bool, bool]:
    """Of a machine's addresses, first the one in a network that this machine is in, too."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return not _is_near(address), address.version == 6


def _is_near(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    if address.is_loopback:
        return True
    for addresses in psutil.net_if_addrs().values():
        for own in addresses:
            if own.family is socket.AF_INET and own.netmask:
                with suppress(ValueError):
                    if address in ipaddress.IPv4Network(f"{own.address}/{own.netmask}", strict=False):
                        return True
    return False
