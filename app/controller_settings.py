"""What the controller is told to do on its own, the same for window and service: HTTP, and what is kept of runs.

One small JSON file in the home, so that it can be read before anything else and edited by hand.
"""

from __future__ import annotations

import ipaddress
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from app.atomic_file import write_atomically
from app.errors import BadInput

DEFAULT_PORT = 7878
GIB = 2**30
ANY_ORIGIN = "*"


def is_loopback(host: str) -> bool:
    """Whether a name or an address, with or without brackets, means this machine alone."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        address = ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return address.is_loopback


class ServerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The HTTP server. `enabled` is for the window; `serve` serves whatever it says."""

    enabled: bool = False
    host: str = "127.0.0.1"
    """Anything but a loopback address demands an API key."""
    port: int = DEFAULT_PORT
    demand_key: bool = False
    """Demand an API key on loopback, too."""
    share_prompts: bool = False
    """Let prompts of one API key begin with what a prompt of another has left in memory. How soon the first token comes
    then tells whether somebody else has sent the same."""
    allowed_origins: tuple[str, ...] = ()
    """Origins of web pages that may call the API from a browser; none by default. `*` is any, with a key."""

    @property
    def demands_key(self) -> bool:
        """Whether a request needs an API key."""
        return self.demand_key or not is_loopback(self.host)

    def check_origins(self) -> None:
        """Raises BadInput for an origin that no browser would send, or that would open this machine to any page."""
        for origin in self.allowed_origins:
            if origin == ANY_ORIGIN:
                if not self.demands_key:
                    raise BadInput(
                        "server.allowed_origins is *, and no API key is demanded: any web page that is opened on this "
                        "machine could use the server, and change what it holds.",
                        "Name the sites (https://models.example.org), or demand a key with server.demand_key=yes.",
                    )
            elif not _is_origin(origin):
                raise BadInput(
                    f"server.allowed_origins has '{origin}', which is no origin of a web page.",
                    "Write scheme, host and port as browsers send them, in lower case and with nothing behind: "
                    "https://models.example.org or http://localhost:3000.",
                )


class RecordSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is kept of requests, deployments, jobs and events, and for how long. 0 means: without a limit."""

    keep_days: int = 90
    keep_bytes: int = 2 * GIB
    """Of all traces and texts together; the oldest go first."""
    keep_text: bool = True
    """Keep the text and the token ids of prompts and answers. Without, a run cannot be replayed."""
    keep_token_times: bool = True


class ControllerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All of it. Frozen: a change makes a new one, which `save` writes."""

    server: ServerSettings = ServerSettings()
    records: RecordSettings = RecordSettings()

    @classmethod
    def load(cls, path: Path) -> ControllerSettings:
        """The settings in a file; the defaults where there is none. Raises BadInput naming what is wrong."""
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise BadInput(f"The settings in {path} cannot be read: {error.strerror}.") from error
        try:
            settings = msgspec.json.decode(data, type=cls)
        except msgspec.DecodeError as error:
            raise BadInput(
                f"The settings in {path} cannot be used: {error}.", "Mend the file, or delete it."
            ) from error
        return settings.checked()

    def save(self, path: Path) -> None:
        """Raises OSError when the disk is full or the folder cannot be written."""
        self.checked()
        self.server.check_origins()
        write_atomically(path, msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n")

    def checked(self) -> ControllerSettings:
        """Itself. Raises BadInput for a value that cannot be used."""
        if not 0 <= self.server.port <= 65535:
            raise BadInput(f"The server's port is {self.server.port}; allowed are 0 to 65535.")
        if not self.server.host:
            raise BadInput("The server's address is empty.", "127.0.0.1 is this machine alone.")
        if self.records.keep_days < 0 or self.records.keep_bytes < 0:
            raise BadInput("Days and bytes to keep cannot be negative.", "0 keeps everything.")
        return self


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    return bool(parts.scheme and host) and text == f"{parts.scheme}://{host}{'' if port is None else f':{port}'}"
