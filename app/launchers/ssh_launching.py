"""The agent of another machine over SSH: code copied, process started so that it outlives the connection, ended.

What goes there is `worker_agent` and `bootstrap`, and nothing of the controller's half. asyncssh is imported at the
first call only.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import shlex
import tarfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from app.errors import BadInput, NodeError
from app.figures import duration
from app.launchers.ssh_hosts import SshHosts

if TYPE_CHECKING:
    import asyncssh

ROOT = Path(__file__).resolve().parent.parent.parent
COPIED = ("worker_agent", "bootstrap", "pyproject.toml", "README.md", "LICENSE")
FOLDER = "shardboard-agent"
"""Under the home of the user there."""
CONNECT_SECONDS = 15.0
READY_SECONDS = 240.0
"""The first start after the set-up reads hundreds of megabytes of libraries from the disk."""
SETUP_SECONDS = 1800.0
_POLL_SECONDS = 0.3


class SshTarget(NamedTuple):
    """`user@host:port`; the user may be left to ~/.ssh/config."""

    host: str
    port: int | None
    user: str | None

    @classmethod
    def parse(cls, text: str) -> SshTarget:
        """Raises BadInput."""
        user, at, place = text.rpartition("@")
        if place.startswith("["):
            host, _, rest = place[1:].partition("]")
            port = rest.removeprefix(":")
        else:
            host, _, port = place.partition(":")
        if not host or (at and not user) or (port and not (port.isdecimal() and 0 < int(port) < 65536)):
            raise BadInput(f"{text} names no machine for SSH.", "Write it as user@host or user@host:port.")
        return cls(host, int(port) if port else None, user or None)

    @property
    def place(self) -> str:
        return f"{self.host}:{self.port or 22}"


class RemoteAgent(msgspec.Struct, frozen=True):
    """What the agent there says once it listens."""

    pid: int
    address: str
    public_key: str


def package() -> tuple[bytes, str]:
    """A tar of what an agent needs, and the digest of its content. Reads files."""
    digest, buffer = hashlib.sha256(), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for top in COPIED:
            start = ROOT / top
            for path in sorted(start.rglob("*")) if start.is_dir() else [start]:
                if not path.is_file() or "__pycache__" in path.parts:
                    continue
                name, content = path.relative_to(ROOT).as_posix(), path.read_bytes()
                digest.update(f"{name}\0{len(content)}\0".encode() + content)
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), 0o755 if path.suffix == ".sh" else 0o644
                tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue(), digest.hexdigest()


class SshLauncher:
    """`controller_key` is the public key that agents trust."""

    def __init__(self, hosts: SshHosts, controller_key: str) -> None:
        self._hosts, self._controller_key = hosts, controller_key

    @asynccontextmanager
    async def connected(
        self, target: SshTarget, confirmed: str | None = None
    ) -> AsyncIterator[asyncssh.SSHClientConnection]:
        """A connection whose host key is pinned. Raises NodeError: refused, timeout, not_allowed, host_key_…"""
        import asyncssh

        hosts = self._hosts
        pinned = await asyncio.to_thread(hosts.known, target.place)
        accepted: list[str] = []
        refusal: list[NodeError] = []

        class Client(asyncssh.SSHClient):
            def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
                shown = key.get_fingerprint()
                try:
                    hosts.check(target.place, pinned, shown, confirmed)
                except NodeError as error:
                    refusal.append(error)
                    return False
                accepted.append(shown)
                return True

        given = {"port": target.port, "username": target.user}
        try:
            connection = await asyncssh.connect(
                target.host, client_factory=Client, known_hosts=([], [], []), connect_timeout=CONNECT_SECONDS,
                keepalive_interval=10, **{name: value for name, value in given.items() if value is not None},
            )  # fmt: skip
        except asyncssh.HostKeyNotVerifiable as error:
            raise (refusal[0] if refusal else _failed(target, str(error), "host_key_changed")) from error
        except asyncssh.PermissionDenied as error:
            raise NodeError(
                f"The SSH server at {target.place} lets nobody in with the keys that were offered: {error.reason}.",
                "Add your key there (ssh-copy-id), or load it into your SSH agent (ssh-add).",
                kind="not_allowed",
            ) from error
        except (TimeoutError, asyncssh.Error) as error:
            raise _failed(target, str(error) or "no answer", "timeout") from error
        except OSError as error:
            raise _failed(target, error.strerror or str(error), "refused") from error
        async with connection:
            if accepted and accepted[-1] != pinned:
                await asyncio.to_thread(hosts.pin, target.place, accepted[-1])
            yield connection

    async def is_there(self, connection: asyncssh.SSHClientConnection) -> bool:
        """Whether anything of ours lies there, such as the key and the layers of a node."""
        return bool((await _ask(connection, f'ls -d "$HOME/{FOLDER}" 2>/dev/null || true')).strip())

    async def copy(self, connection: asyncssh.SSHClientConnection) -> bool:
        """Bring the code there up to date; returns whether anything had to be copied."""
        content, digest = await asyncio.to_thread(package)
        if (await _ask(connection, f'cat "$HOME/{FOLDER}/digest" 2>/dev/null || true')).strip() == digest:
            return False
        tops = " ".join(shlex.quote(top) for top in COPIED)
        script = (
            f'set -e; umask 077; mkdir -p "$HOME/{FOLDER}/new"; cd "$HOME/{FOLDER}"; rm -f digest; tar xzf - -C new; '
            f'for top in {tops}; do rm -rf "$top"; mv "new/$top" "$top"; done; rmdir new; echo {digest} > digest'
        )
        await _ask(connection, script, content)
        return True

    async def start(
        self, connection: asyncssh.SSHClientConnection, listen: str, *, python: str | None = None,
        report: Callable[[str], None] = lambda phase: None,
    ) -> RemoteAgent:  # fmt: skip
        """Start the agent there; it goes on when the connection ends.

        Args:
            python: an interpreter there which has what an agent needs; None sets up an environment first.
        """
        if python is None:
            report("setting up the environment there")
            said = await _ask(connection, f'cd "$HOME/{FOLDER}" && bash worker_agent/launch/agent.sh prepare', None,
                              SETUP_SECONDS)  # fmt: skip
            python = said.strip().splitlines()[-1]
        report("starting the agent there")
        words = " ".join(shlex.quote(word) for word in (f"--listen={listen}", f"--trust={self._controller_key}"))
        await _ask(
            connection,
            f'cd "$HOME/{FOLDER}" && mkdir -p state && rm -f state/ready.json && export PYTHONPATH="$PWD" && '
            f'(setsid nohup {shlex.quote(python)} -P -m worker_agent {words} --home "$PWD/state" '
            '--ready-file "$PWD/state/ready.json" </dev/null >output.log 2>&1 & echo $! > pid)',
        )
        look = f'cd "$HOME/{FOLDER}"; cat state/ready.json 2>/dev/null || kill -0 $(cat pid) 2>/dev/null || ' \
               "{ tail -c 1500 output.log; exit 9; }"  # fmt: skip
        try:
            async with asyncio.timeout(READY_SECONDS):
                while not (said := await _ask(connection, look)):
                    await asyncio.sleep(_POLL_SECONDS)
        except TimeoutError:
            raise NodeError(
                f"The agent there was started, and has not said within {duration(READY_SECONDS)} that it listens.",
                f"Look at ~/{FOLDER}/output.log on that machine; where it is only slow, try again: what was set up "
                "there, in that folder, stays.",
                kind="timeout",
            ) from None
        return msgspec.json.decode(said, type=RemoteAgent)

    async def running(self, connection: asyncssh.SSHClientConnection) -> RemoteAgent | None:
        """The agent there, if it runs and listens."""
        said = await _ask(connection, f'{_MINE}; mine && cat "$HOME/{FOLDER}/state/ready.json" 2>/dev/null || true')
        return msgspec.json.decode(said, type=RemoteAgent) if said.strip() else None

    async def end(self, connection: asyncssh.SSHClientConnection) -> None:
        """End the agent there, if one runs, and wait for that: one that does not end by itself is killed."""
        await _ask(
            connection,
            f"{_MINE}; wait_for() {{ n=0; while mine && [ $n -lt $1 ]; do sleep 0.2; n=$((n+1)); done; }}; "
            "if mine; then kill $pid; wait_for 75; fi; if mine; then kill -9 $pid; wait_for 25; fi; "
            'if mine; then echo "process $pid does not end" >&2; exit 9; fi',
        )

    async def remove(self, connection: asyncssh.SSHClientConnection) -> None:
        """End the agent there, and delete all of it."""
        await self.end(connection)
        # An environment is tens of thousands of files.
        await _ask(connection, f'rm -rf "$HOME/{FOLDER}"', seconds=SETUP_SECONDS)


# A number alone may be another program's by now; where there is no /proc, ps tells.
_MINE = (
    f'pid=$(cat "$HOME/{FOLDER}/pid" 2>/dev/null); '
    'mine() { [ -n "$pid" ] && ps -p "$pid" -o args= 2>/dev/null | grep -q worker_agent; }'
)


async def _ask(
    connection: asyncssh.SSHClientConnection, script: str, given: bytes | None = None, seconds: float = 60.0
) -> str:
    """What a script there says. Raises NodeError."""
    try:
        # Not wait_for: that of Python 3.11 loses a cancellation that comes just as the command ends.
        async with asyncio.timeout(seconds):
            done = await connection.run(f"sh -c {shlex.quote(script)}", input=given or b"", encoding=None)
    except TimeoutError:
        raise NodeError(
            f"A command over SSH did not end there within {duration(seconds)}.",
            f"See whether that machine is busy or its disk is full; then try again: what was done there until now, in "
            f"~/{FOLDER}, stays, and is gone on from.",
            kind="timeout",
        ) from None
    said = _text(done.stdout)
    if done.exit_status != 0:
        why = (_text(done.stderr) + said).strip()[-1500:]
        raise NodeError(f"A command over SSH failed there: {why}", "See what it says.", kind="internal")
    return said


def _text(said: object) -> str:
    return said.decode(errors="replace") if isinstance(said, bytes) else ""


def _failed(target: SshTarget, why: str, kind: str) -> NodeError:
    return NodeError(
        f"The SSH server at {target.place} cannot be reached: {why}.",
        "Check the address, that the machine is on, and that it lets SSH in.",
        kind=kind,
    )
