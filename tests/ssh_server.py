"""A real sshd on loopback, with keys of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.launchers.ssh_launching import SshTarget

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="no sshd is installed (Debian: openssh-server)")


@dataclass
class Server:
    port: int
    remote_home: Path
    user_key: Path
    folder: Path

    @property
    def target(self) -> SshTarget:
        return SshTarget("127.0.0.1", self.port, os.environ.get("USER") or "root")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """With a host key, an authorized key and a home of its own; ~/.ssh of who runs the tests is not looked into."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    made = Server(port, tmp_path / "there", tmp_path / "own" / ".ssh" / "id_ed25519", tmp_path)
    made.remote_home.mkdir()
    made.user_key.parent.mkdir(parents=True)
    for key in (tmp_path / "host", made.user_key):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    monkeypatch.setenv("HOME", str(tmp_path / "own"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {tmp_path / 'host'}\nStrictModes no\nUsePAM no\n"
        f"AuthorizedKeysFile {made.user_key}.pub\nPasswordAuthentication no\nPidFile none\n"
        f"SetEnv HOME={made.remote_home}\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    daemon = subprocess.Popen([str(SSHD), "-D", "-f", str(tmp_path / "config"), "-E", str(tmp_path / "said")])
    deadline = time.monotonic() + 20
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert daemon.poll() is None and time.monotonic() < deadline, (tmp_path / "said").read_text()
        time.sleep(0.05)
    yield made
    daemon.terminate()
    daemon.wait(10)


def fingerprint(server: Server) -> str:
    said = subprocess.run(
        ["ssh-keygen", "-lf", str(server.folder / "host.pub")], capture_output=True, text=True, check=True
    )
    return said.stdout.split()[1]
