"""A disk that fills up while a model is cut: a real one, a small tmpfs."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path

import pytest

from app.children.work import JobProgress
from app.errors import DiskFullError
from app.sharding.cut_process import CutRequest, cut
from app.sharding.cutting import CuttingJob
from app.sharding.output_folder import discard, new_workplace
from app.sharding.plan import divide
from tests.models.described import described
from tests.worker_agent.tiny_models import make_model

MEGABYTE = 1_000_000


def test_a_model_too_large_for_the_disk_is_not_begun(small_disk: Path, tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model", vocab_size=300_000)  # 77 MB
    description = described(tmp_path / "model")
    with pytest.raises(DiskFullError, match=r"needs .* MB at .*disk/out, and .* MB are free there"):
        CuttingJob(description, divide(description, 2), small_disk / "out").run()
    assert list(small_disk.iterdir()) == []


def test_a_disk_that_fills_up_meanwhile_is_left_as_it_was(small_disk: Path, tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model", vocab_size=80_000)  # 20 MB, 41 MB in two shards
    description = described(tmp_path / "model")
    CuttingJob(description, ((0, 7),), small_disk).run()
    before = {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()}
    hog = small_disk / "somebody-else"

    def fill(_: JobProgress) -> None:
        """Another program takes what is left while the first bytes are being written."""
        with hog.open("ab", buffering=0) as file, suppress(OSError):
            while file.write(bytes(MEGABYTE)) == MEGABYTE:
                pass

    workplace = new_workplace(small_disk)
    workplace.mkdir()
    request = CutRequest(description=description, ranges=divide(description, 2), workplace=str(workplace))
    with pytest.raises(DiskFullError, match=r"The disk of .*disk filled up while the model was cut"):
        cut(request, fill)
    discard(workplace)
    hog.unlink()
    assert {path: path.read_bytes() for path in small_disk.rglob("*") if path.is_file()} == before


def test_the_job_removes_what_was_written_when_the_disk_fills_up(small_disk: Path, tmp_path: Path) -> None:
    """Bytes are free and files are not, which no look at the free bytes foretells."""
    make_model("llama", tmp_path / "model", num_hidden_layers=2)
    description = described(tmp_path / "model")
    subprocess.run(["mount", "-o", "remount,nr_inodes=7", small_disk], check=True)
    with pytest.raises(DiskFullError, match="filled up while the model was cut; nothing of it was left there"):
        CuttingJob(description, divide(description, 2), small_disk / "out").run()
    assert list(small_disk.iterdir()) == []
