"""Under which addresses other machines may reach this one."""

from __future__ import annotations

import ipaddress
import socket

INVITATION_PORT = 7599


def own_addresses() -> list[str]:
    """The addresses of this machine's networks, private ones first, loopback last; IPv4, since people type them."""
    import psutil

    found = {
        address.address
        for addresses in psutil.net_if_addrs().values()
        for address in addresses
        if address.family is socket.AF_INET
    }
    return sorted(found, key=_usefulness)


def _usefulness(text: str) -> tuple[bool, bool, bool, str]:
    """Sorts what is most likely to be reached by another machine of the same home first."""
    address = ipaddress.ip_address(text)
    return address.is_loopback, address.is_link_local, not address.is_private, text
