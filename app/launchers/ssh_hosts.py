"""Keys of SSH hosts that this controller's user has confirmed: pinned in the home, and refused when they change."""

from __future__ import annotations

from pathlib import Path

import msgspec

from app.errors import NodeError
from worker_agent.wire.files import write_private


class UnknownHost(NodeError):
    """A host that is seen for the first time: its key has to be confirmed."""

    def __init__(self, place: str, shown: str) -> None:
        super().__init__(
            f"The SSH server at {place} is seen for the first time. Its key is {shown}.",
            "Compare it on that machine (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), then give it with "
            f"--host-key {shown}",
            kind="host_key_unknown",
        )
        self.shown = shown


class SshHosts:
    """Fingerprints (`SHA256:…`) by `host:port`, in one private file."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def known(self, place: str) -> str | None:
        """The pinned fingerprint of `host:port`. Raises NodeError when the file is damaged. Reads it."""
        return self._read().get(place)

    def pin(self, place: str, shown: str) -> None:
        """From now on this is the key of `host:port`. Writes the file."""
        write_private(self._path, msgspec.json.encode({**self._read(), place: shown}))

    def check(self, place: str, pinned: str | None, shown: str, confirmed: str | None = None) -> None:
        """Accept the key that a host shows, or raise NodeError: `host_key_unknown`, `host_key_changed`.

        Args:
            pinned: what was pinned of it.
            confirmed: the fingerprint that the user has given or has agreed to.
        """
        if pinned == shown and confirmed in (None, shown):
            return
        if confirmed is not None and confirmed != shown:
            raise NodeError(
                f"The SSH server at {place} shows the key {shown}, not the one that was given ({confirmed}).",
                "Compare it on that machine: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub",
                kind="host_key_changed",
            )
        if pinned is not None:
            raise NodeError(
                f"The SSH server at {place} shows the key {shown}; it was {pinned} before.",
                f"If that machine was set up anew, forget the old key by taking {place} out of {self._path}. "
                "If it was not, somebody else may be answering.",
                kind="host_key_changed",
            )
        if confirmed is None:
            raise UnknownHost(place, shown)

    def _read(self) -> dict[str, str]:
        if not self._path.exists():
            return {}
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=dict[str, str])
        except msgspec.DecodeError as error:
            raise NodeError(
                f"The pinned SSH host keys in {self._path} cannot be read: {error}.",
                "Put the file back from a backup, or delete it and confirm each host again.",
                kind="host_key_unknown",
            ) from error
