"""The few packages of the operating system that are needed, and who installs them.

As root on Debian or its kin (a container, a CI machine) they are installed; everybody else is told their names.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from bootstrap.machine import Machine
from bootstrap.pip import say


def has_postgresql() -> bool:
    """Whether a PostgreSQL server's programs are there; Debian keeps them off the PATH."""
    return shutil.which("initdb") is not None or any(Path("/usr/lib/postgresql").glob("*/bin/initdb"))


def apt_install(*packages: str) -> bool:
    """Install packages as root. Returns whether it worked; what apt said is shown when it did not."""
    say(f"Installing the system package{'s' if len(packages) > 1 else ''} {' '.join(packages)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (
        ["apt-get", "update", "-q"],
        ["apt-get", "install", "-q", "-y", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    if done.returncode != 0:
        say("\n".join(f"    {line}" for line in done.stdout.strip().splitlines()[-5:]))
    return done.returncode == 0


def provide_postgresql(machine: Machine) -> None:
    """For the tests of the registry on PostgreSQL; without it they skip and say so."""
    if has_postgresql():
        return
    if machine.debian and machine.root and apt_install("postgresql"):
        return
    say("No PostgreSQL server here: the tests that need one will be skipped.")
    if machine.debian:
        say("To run them: sudo apt-get install postgresql")
    else:
        say("To run them, install PostgreSQL so that `initdb` is on the PATH.")
