"""Runs compose.yaml's services without a container engine: each in a chroot, as its user, on a network of its own.

As much of Compose as our file uses. What holds a service in: its user without capabilities or a way to new ones, a
read-only root, a /tmp and a volume to write to, a network namespace with the other services' names.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dockerfile import Config
from images import PATH, Image, checked, output

BRIDGE = "sbtry0"
NETWORK = "10.213.77"
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Service:
    """One of compose.yaml's, with its image and the address that it has here."""

    name: str
    image: Image
    settings: Mapping[str, Any]
    address: str
    work: Path

    @property
    def root(self) -> Path:
        return self.work / "run" / self.name

    @property
    def namespace(self) -> str:
        return f"sb-{self.name}"

    @property
    def config(self) -> Config:
        return self.image.config

    @property
    def log(self) -> Path:
        return self.work / f"{self.name}.log"

    @property
    def _pid_file(self) -> Path:
        return self.work / f"{self.name}.pid"

    @property
    def pid(self) -> int | None:
        """Of its process, if that runs."""
        try:
            pid = int(self._pid_file.read_text())
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (OSError, ValueError):
            return None
        return None if state == "Z" else pid

    # --- its place ---

    def prepare(self, names: Mapping[str, str]) -> None:
        """Root, volumes and network, unless they are there. `names`: of all services, with addresses."""
        if is_mounted(self.root):
            return
        self.root.mkdir(parents=True, exist_ok=True)
        hosts = self.work / "hosts"
        hosts.write_text("127.0.0.1 localhost\n" + "".join(f"{ip} {name}\n" for name, ip in names.items()))
        (self.image.root / "etc" / "hosts").touch()
        checked("mount", "--bind", str(self.image.root), str(self.root))
        if self.settings.get("read_only"):
            checked("mount", "-o", "remount,bind,ro", str(self.root))
        checked("mount", "-t", "proc", "proc", str(self.root / "proc"))
        checked("mount", "--bind", "/dev", str(self.root / "dev"))
        checked("mount", "--bind", str(hosts), str(self.root / "etc" / "hosts"))
        for place in self.settings.get("tmpfs", ()):
            checked("mount", "-t", "tmpfs", "-o", "noexec,nosuid,nodev", "tmpfs", str(self.root / place.lstrip("/")))
        for volume in self.settings.get("volumes", ()):
            name, _, place = volume.partition(":")
            if place not in self.config.volumes:
                raise SystemExit(f"{self.name}: {place} is no VOLUME of its image")
            self._mount_volume(self.work / "volumes" / name, place)
        checked("ip", "netns", "add", self.namespace)
        link = f"sb{self.address.rpartition('.')[2]}"
        checked("ip", "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", self.namespace)
        checked("ip", "link", "set", link, "master", BRIDGE, "up")
        for command in (
            ["ip", "addr", "add", f"{self.address}/24", "dev", "eth0"],
            ["ip", "link", "set", "eth0", "up"],
            ["ip", "link", "set", "lo", "up"],
        ):
            checked("ip", "netns", "exec", self.namespace, *command)

    def _mount_volume(self, kept: Path, place: str) -> None:
        """A named volume begins as what the image has there, with its owner."""
        if not kept.exists():
            kept.parent.mkdir(parents=True, exist_ok=True)
            checked("cp", "-a", str(self.image.root / place.lstrip("/")), str(kept))
        checked("mount", "--bind", str(kept), str(self.root / place.lstrip("/")))

    def clear_away(self) -> None:
        self.stop()
        while is_mounted(self.root):
            checked("umount", "--recursive", "--lazy", str(self.root))
        if f"{self.namespace} " in f"{output('ip', 'netns', 'list')} ".replace("\n", " "):
            checked("ip", "netns", "delete", self.namespace)

    # --- its processes ---

    def command(self, words: Sequence[str]) -> list[str]:
        """A command within it: its network, its root, its user without any privilege, its environment and folder."""
        user, group = self.image.ids()
        environment = {"PATH": PATH, "HOME": self.config.folder, **self.config.environment}
        return [
            "ip", "netns", "exec", self.namespace, "chroot", str(self.root),
            "setpriv", f"--reuid={user}", f"--regid={group}", "--clear-groups", "--no-new-privs", "--inh-caps=-all",
            "--bounding-set=-all", "env", "-i", *(f"{name}={value}" for name, value in environment.items()),
            "sh", "-c", 'cd "$1" && shift && exec "$@"', "sh", self.config.folder, *words,
        ]  # fmt: skip

    def main_command(self, variables: Mapping[str, str]) -> list[str]:
        given = self.settings.get("command")
        words = self.config.command if given is None else [interpolated(str(word), variables) for word in given]
        return self.command([*self.config.entrypoint, *words])

    def start(self, variables: Mapping[str, str]) -> None:
        """In the background, until it answers its health check."""
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                self.main_command(variables), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self._pid_file.write_text(str(process.pid))
        deadline = time.monotonic() + 120
        while subprocess.run(self.command(self.config.health), capture_output=True, check=False).returncode:
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{self.name} does not get healthy:\n{self.log.read_text()}")
            time.sleep(0.5)

    def stop(self) -> float:
        """By its signal, and killed when that does not help; how long it took, in seconds."""
        began = time.monotonic()
        if (pid := self.pid) is not None:
            os.kill(pid, getattr(signal, self.config.stop_signal))
            while self.pid is not None:
                if time.monotonic() - began > STOP_SECONDS:
                    os.kill(pid, signal.SIGKILL)
                time.sleep(0.1)
        return time.monotonic() - began


def open_network() -> None:
    if subprocess.run(["ip", "link", "show", BRIDGE], capture_output=True, check=False).returncode == 0:
        return
    checked("ip", "link", "add", BRIDGE, "type", "bridge")
    checked("ip", "addr", "add", f"{NETWORK}.1/24", "dev", BRIDGE)
    checked("ip", "link", "set", BRIDGE, "up")


def close_network() -> None:
    subprocess.run(["ip", "link", "delete", BRIDGE], capture_output=True, check=False)


def is_mounted(place: Path) -> bool:
    """Also for what is bound from the same file system, which Path.is_mount does not see."""
    return any(line.split()[1] == str(place) for line in Path("/proc/self/mounts").read_text().splitlines())


def interpolated(text: str, variables: Mapping[str, str]) -> str:
    """Compose's ${NAME:-default}."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1]) or found[2], text)


def variables_of(folder: Path) -> dict[str, str]:
    """`.env` beside compose.yaml: NAME='value', the quotes of which keep $ and # as they are."""
    path = folder / ".env"
    lines = path.read_text().splitlines() if path.exists() else []
    found = {}
    for line in lines:
        name, _, value = line.partition("=")
        if not (value.startswith("'") and value.endswith("'") and len(value) > 1):
            raise SystemExit(f"{path}: the value of {name} has no single quotes; Compose would read $ and # in it")
        found[name] = value[1:-1]
    return found
