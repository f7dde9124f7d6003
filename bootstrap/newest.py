"""`./test --newest`: whether stages still compute exactly what transformers does in its newest release, on the newest
torch. pyproject.toml names the releases that were tested; this tells whether it may name the next ones.

An environment of its own, `.venv-newest`, holds them; `.venv` is not touched.
"""

from __future__ import annotations

import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Sequence
from pathlib import Path

from bootstrap.environment import Environment
from bootstrap.faults import explain
from bootstrap.machine import Machine
from bootstrap.pip import command, say, variables

NEWEST = "--newest"
FOLLOWED = ("torch", "transformers")
"""Packages whose newest releases are tried, whatever pyproject.toml allows."""
EXACTNESS = (
    "tests/worker_agent/engine/test_stages_match_transformers.py",
    "tests/worker_agent/engine/test_every_architecture.py", "tests/worker_agent/engine/test_falling_back.py",
    "tests/worker_agent/engine/test_memory.py", "tests/worker_agent/engine/test_lockstep.py",
    "tests/worker_agent/engine/test_kv_int8.py", "tests/worker_agent/engine/test_static.py",
    "tests/worker_agent/model/test_probe.py", "tests/worker_agent/model/test_proof.py",
    "tests/worker_agent/model/test_rotary.py", "tests/worker_agent/model/test_imports.py",
    "tests/e2e/test_exactness.py",
)  # fmt: skip
"""Tests that compare what stages compute with what transformers does, and that look into transformers' models."""


class NewestEnvironment(Environment):
    """`.venv-newest`: all that the project asks for, and the newest of what is followed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, ".venv-newest")
        self.versions: dict[str, str] = {}
        """Of what is followed, once it is installed."""

    def serves(self, extras: frozenset[str]) -> bool:
        return False  # whether something newer is there, only the index knows

    def space_needed(self, machine: Machine) -> int:
        return max(12_000_000_000, super().space_needed(machine))  # the newest torch may come with CUDA alone

    def requirements(self, machine: Machine, extras: frozenset[str]) -> list[str]:
        """As what the project asks for, but the bounds of what is followed. The project itself is not installed."""
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        asked = [*project["dependencies"]]
        for extra in sorted(extras):
            asked += project.get("optional-dependencies", {}).get(extra, [])
        # Two equals signs: a release's build for the CPU alone has the same number with a label, and is preferred so.
        newest = [f"{name}=={version}" for name, version in self._newest().items()]
        return [*newest, *(each for each in asked if _name(each) not in FOLLOWED)]

    def check_installed(self) -> None:
        self._check_present(FOLLOWED)
        probe = f"from importlib.metadata import version\nfor name in {FOLLOWED!r}: print(name, version(name))"
        told = subprocess.run([str(self.python), "-I", "-c", probe], capture_output=True, text=True, check=True).stdout
        self.versions = dict(line.split() for line in told.splitlines())

    def _newest(self) -> dict[str, str]:
        """The newest release of each package that pip would install here, without a build's label.

        Raises:
            SetupError: pip cannot say so.
        """
        asked = command(self.python, ["--dry-run", "--no-deps", "--ignore-installed", "--quiet", "--report", "-"])
        found = subprocess.run(
            [*asked, *FOLLOWED], cwd=self.root, env=variables(), stdin=subprocess.DEVNULL, capture_output=True,
            encoding="utf-8", errors="replace", check=False,
        )  # fmt: skip
        if found.returncode != 0:
            raise explain(found.stderr, folder=self.root, free_bytes=self.free_bytes(), log=self.log)
        told = [each["metadata"] for each in json.loads(found.stdout)["install"]]
        return {each["name"].lower(): each["version"].partition("+")[0] for each in told}


def run_newest(root: Path, extras: Iterable[str], arguments: Sequence[str]) -> int:
    """Bring `.venv-newest` up to date and run the exactness tests in it, or what pytest is told to run.

    Returns pytest's exit code.

    Raises:
        SetupError: the environment cannot be made.
    """
    environment = NewestEnvironment(root)
    environment.ensure(extras)
    had = " and ".join(f"{name} {version}" for name, version in environment.versions.items())
    say(f"Running tests with {had}, the newest that pip is offered here.")
    chosen = [argument for argument in arguments if argument != NEWEST] or EXACTNESS
    status = subprocess.run([str(environment.python), "-m", "pytest", *chosen], cwd=root, check=False).returncode
    outcome = "the tests pass" if status == 0 else f"tests fail (pytest's exit code is {status})"
    print(f"With {had}, {outcome}. pyproject.toml allows {_allowed(root)}.", flush=True)
    return status


def _allowed(root: Path) -> str:
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return " and ".join(each for each in project["dependencies"] if _name(each) in FOLLOWED)


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
