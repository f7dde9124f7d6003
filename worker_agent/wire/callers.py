"""Who is on the other end of the agent's connections, which deployment they drive, and since when they are silent.

Pure: the time comes in as an argument, nothing here touches a socket.
"""

from __future__ import annotations

from dataclasses import dataclass

SILENCE_SECONDS = 120.0
"""The lease: after so long without a message, a controller's sequences are dropped. Until then they go on, for the same
controller when its connection is back, or for one that was started again."""
FORGET_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Caller:
    """One connection: whose key it was opened with, and the ROUTER's name for it."""

    key: str
    route: bytes


@dataclass(slots=True)
class _Process:
    """One controller process, over all of its connections."""

    heard: float
    silent: bool = False


class Callers:
    """Connections belong to processes (by the boot id of their Hello), deployments to the process that drives them."""

    def __init__(self) -> None:
        self._process_of: dict[Caller, tuple[str, str]] = {}
        self._processes: dict[tuple[str, str], _Process] = {}
        self._owners: dict[str, Caller] = {}

    def greet(self, caller: Caller, boot: str, now: float) -> None:
        """A Hello came: the connection belongs to the process with this boot id."""
        self._process_of[caller] = (caller.key, boot)
        self.heard(caller, now)

    def heard(self, caller: Caller, now: float) -> None:
        """Any message came from a controller."""
        process = self._process_of.setdefault(caller, (caller.key, ""))
        known = self._processes.get(process)
        if known is None:
            self._processes[process] = _Process(now)
        else:
            known.heard = now
            known.silent = False

    def claim(self, deployment: str, caller: Caller) -> None:
        """This connection drives the deployment: tokens and faults go there."""
        self._owners[deployment] = caller

    def release(self, deployment: str) -> None:
        self._owners.pop(deployment, None)

    def owner(self, deployment: str) -> Caller | None:
        return self._owners.get(deployment)

    def __len__(self) -> int:
        """How many controller processes are remembered."""
        return len(self._processes)

    def fallen_silent(self, now: float) -> list[str]:
        """The deployments whose controller has become silent since the last call, each told once."""
        fresh = set()
        for name, process in self._processes.items():
            if not process.silent and now - process.heard >= SILENCE_SECONDS:
                process.silent = True
                fresh.add(name)
        self._forget(now)
        return [deployment for deployment, owner in self._owners.items() if self._process_of.get(owner) in fresh]

    def _forget(self, now: float) -> None:
        """Let go of processes that drive nothing and have long been gone."""
        driving = {self._process_of.get(owner) for owner in self._owners.values()}
        gone = {
            name
            for name, process in self._processes.items()
            if now - process.heard > FORGET_SECONDS and name not in driving
        }
        if gone:
            for name in gone:
                del self._processes[name]
            self._process_of = {caller: name for caller, name in self._process_of.items() if name not in gone}
