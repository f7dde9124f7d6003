"""Which addresses are this machine's own, and which names a request may call the server by.

A page of another site can make its own name point to 127.0.0.1 and so reach a server that listens there (DNS
rebinding). It cannot choose the Host header: its own name stands there, and is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from app.controller_settings import ServerSettings, is_loopback

EVERYWHERE = ("0.0.0.0", "::", "")
"""Addresses that mean all networks of the machine."""


def host_of(header: str) -> str:
    """The host in a Host header, without port and brackets, in lower case; empty when it is malformed."""
    try:
        parts = urlsplit(f"//{header}")
        host, _ = parts.hostname, parts.port
    except ValueError:
        return ""
    return "" if parts.path or parts.query or parts.fragment or parts.username is not None else (host or "").rstrip(".")


@dataclass(frozen=True)
class HostNames:
    """The names that requests may use.

    Args:
        open: any name will do. So it is where every request needs a key, which a page of another site does not have.
        names: besides those of loopback.
    """

    open: bool
    names: frozenset[str]

    @classmethod
    def of(cls, settings: ServerSettings, *, demands_key: bool) -> HostNames:
        """Names for these settings. The hosts of allowed origins count: one may be a proxy in front of this server."""
        trusted = {host for origin in settings.allowed_origins if (host := urlsplit(origin).hostname)}
        return cls(
            demands_key and not is_loopback(settings.host),
            frozenset({settings.host.strip("[]").lower(), *trusted} - set(EVERYWHERE)),
        )

    def allow(self, header: str) -> bool:
        """Whether a request with this Host header may come in."""
        host = host_of(header)
        return bool(host) and (self.open or is_loopback(host) or host in self.names)


__all__ = ["EVERYWHERE", "HostNames", "host_of", "is_loopback"]
