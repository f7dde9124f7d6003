"""How an agent that waits says so on its network, by mDNS, and what a controller reads of that.

Nothing secret is told, and nothing that is told is trusted: name and address are hints, the key is what the meeting
(`meeting.py`) begins with. The library zeroconf is imported when it is first needed.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from worker_agent.wire.errors import AgentError
from worker_agent.wire.keys import KeyProblem, check_key, key_fingerprint
from worker_agent.wire.links import Endpoint
from worker_agent.wire.meeting import printable
from worker_agent.wire.messages import WIRE_VERSION

SERVICE = "_shardboard._tcp.local."
NO_LIBRARY = "The package zeroconf, which finds machines on the network, is not installed here: pip install zeroconf"
NO_MULTICAST = "Machines cannot be found on this network"


class CannotAnnounce(AgentError):
    """The network, or what is installed, does not let this agent be found. The text says what to do."""

    kind = "announcing"


@dataclass(frozen=True)
class Announced:
    """What an agent that waits says of itself."""

    name: str
    public_key: str
    wire_version: int

    def properties(self) -> dict[str, str]:
        """The TXT record. All of the key, since a connection needs it; its fingerprint is the record's name."""
        return {"name": self.name[:100], "key": self.public_key, "wire": str(self.wire_version)}

    @classmethod
    def read(cls, label: str, properties: Mapping[bytes, bytes | None]) -> Announced | None:
        """None for what is no agent of ours: anybody may announce anything."""
        try:
            name, key, wire = ((properties.get(field) or b"").decode() for field in (b"name", b"key", b"wire"))
            if label != key_fingerprint(check_key(key)) or not name:
                return None
            return cls(printable(name), key, int(wire[:5]))
        except (UnicodeError, ValueError, KeyProblem):
            return None


@contextmanager
def announced(name: str, public_key: str, endpoint: Endpoint) -> Iterator[None]:
    """Say on the network of `endpoint` that an agent waits there, until the block ends.

    Raises:
        CannotAnnounce: zeroconf is not installed, there is no network, or the same key is announced already.
    """
    try:
        from zeroconf import Error as ZeroconfError
        from zeroconf import InterfaceChoice, IPVersion, NonUniqueNameException, ServiceInfo, Zeroconf
    except ImportError as error:
        raise CannotAnnounce(NO_LIBRARY) from error
    addresses = own_addresses() if endpoint.is_everywhere else [_numeric(endpoint.host)]
    six = all(":" in address for address in addresses)
    fingerprint = key_fingerprint(public_key)
    info = ServiceInfo(
        SERVICE,
        f"{fingerprint}.{SERVICE}",
        port=endpoint.port,
        parsed_addresses=addresses,
        properties=Announced(name, public_key, WIRE_VERSION).properties(),
        server=f"shardboard-{fingerprint}.local.",
    )
    try:
        network = Zeroconf(
            interfaces=InterfaceChoice.All if endpoint.is_everywhere else addresses,
            ip_version=IPVersion.V6Only if six else IPVersion.V4Only,
        )
    except (OSError, ZeroconfError) as error:
        raise CannotAnnounce(f"{NO_MULTICAST} ({error}). Join by an invitation instead (--join).") from error
    try:
        network.register_service(info)
    except NonUniqueNameException as error:
        network.close()
        raise CannotAnnounce(
            f"Another machine on this network waits with the same key ({fingerprint}). If this agent's folder was "
            "copied from there, delete agent.key in it: every agent has a key of its own."
        ) from error
    except (OSError, ZeroconfError) as error:
        network.close()
        raise CannotAnnounce(f"{NO_MULTICAST} ({error}). Join by an invitation instead (--join).") from error
    try:
        yield
    finally:
        network.close()  # which says goodbye for what is registered


def own_addresses() -> list[str]:
    """IPv4 addresses of this machine's networks that are up, without loopback; those of a home or office first."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    found = {
        ipaddress.IPv4Address(each.address)
        for name, addresses in psutil.net_if_addrs().items()
        if name in up
        for each in addresses
        if each.family is socket.AF_INET
    }
    useful = [address for address in found if not address.is_loopback]
    return [str(each) for each in sorted(useful, key=lambda each: (each.is_link_local, not each.is_private, each))]


def network_address() -> str | None:
    """The address of this machine in its network: where it would send from, else any; None without a network."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation; UDP sends nothing here
            address: str = probe.getsockname()[0]
        except OSError:
            return next(iter(own_addresses()), None)
    return address


def _numeric(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise CannotAnnounce(f"{host} is no address of this machine ({error}). Give another --listen.") from error
