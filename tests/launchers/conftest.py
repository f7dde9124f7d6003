"""A Ray cluster for tests, where Ray is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.paths import Home

ROOT = Path(__file__).resolve().parent.parent.parent
TOKEN = "0123456789abcdef" * 2


@dataclass
class RayMachines:
    """A cluster whose head does no work, and nodes of one CPU each."""

    address: str
    places: list[str]
    _process: subprocess.Popen[str]

    def add(self) -> str:
        """One more node; its id."""
        place = self._tell("add")
        self.places.append(place)
        return place

    def kill(self, place: str) -> None:
        """As if the machine were switched off."""
        self._tell(f"kill {place}")
        self.places.remove(place)

    def _tell(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        return str(json.loads(self._process.stdout.readline()))


@pytest.fixture
def ray_machines(home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RayMachines]:
    """Three nodes and a token, which the environment has from here on."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install 'shardboard[ray]', as ./test -m long does")
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    with (tmp_path / "ray.log").open("w") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.launchers.ray_cluster", "3"], cwd=ROOT, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env={**os.environ, "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
    assert process.stdin is not None and process.stdout is not None
    line = process.stdout.readline()
    assert line, (tmp_path / "ray.log").read_text()[-3000:]
    yield RayMachines(**json.loads(line), _process=process)
    process.stdin.close()
    process.wait(60)
    process.stdout.close()
