"""The watch over loops finds what would hold them up, and nothing else."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.held_up_loops import ROOT, Waits

IN_THE_APP = """
import asyncio, shutil, tempfile
from pathlib import Path

async def reads(path): path.read_text()
async def looks(path): path.exists()
async def lists(path): list(path.parent.glob("*"))
async def copies(path): shutil.copy(path, path.with_suffix(".copy"))
async def in_a_thread(path): await asyncio.to_thread(path.read_text)
async def of_the_system(path): Path("/proc/self/stat").exists()
async def imports(path): import wave
"""


@pytest.mark.parametrize(
    ("name", "waits_for_it"),
    [("reads", True), ("looks", True), ("lists", True), ("copies", True), ("in_a_thread", False),
     ("of_the_system", False), ("imports", False)],
)  # fmt: skip
def test_the_apps_calls_for_files_on_a_loop_are_found(
    waits: Waits, tmp_path: Path, name: str, waits_for_it: bool
) -> None:
    made: dict[str, object] = {}
    exec(compile(IN_THE_APP, str(ROOT / "app" / "invented.py"), "exec"), made)
    path = tmp_path / "file"
    path.write_text("text")
    asyncio.run(made[name](path))  # type: ignore[operator]
    found = waits.taken().files
    assert bool(found) == waits_for_it
    assert all("invented.py" in stack for stack in found)


def test_a_test_may_read_files_on_its_own_loop(waits: Waits, tmp_path: Path) -> None:
    async def test() -> None:
        assert not (tmp_path / "nothing").exists()

    asyncio.run(test())
    assert waits.files == []
