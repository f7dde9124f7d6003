"""Which build of torch a machine gets."""

from __future__ import annotations

from pathlib import Path

import pytest

from bootstrap.machine import Machine, has_nvidia_gpu, space_needed, torch_requirement


def machine(system: str, *, nvidia: bool) -> Machine:
    return Machine(system=system, nvidia=nvidia, debian=False, root=False)


@pytest.mark.parametrize(
    ("system", "nvidia", "pinned"),
    [
        ("Linux", False, True),
        ("Linux", True, False),
        ("Darwin", False, False),
        ("Windows", False, False),
        ("Windows", True, False),
    ],
)
def test_only_linux_without_nvidia_asks_for_the_exact_version_that_has_a_cpu_build(
    system: str, nvidia: bool, pinned: bool
) -> None:
    assert ("==" in torch_requirement(machine(system, nvidia=nvidia))) is pinned


def test_the_gpu_build_needs_far_more_room() -> None:
    assert space_needed(machine("Linux", nvidia=True)) > 3 * space_needed(machine("Linux", nvidia=False))


def test_nvidias_tool_without_a_gpu_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not has_nvidia_gpu()
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed because it could not talk to the driver.'\nexit 9\n")
    tool.chmod(0o755)
    assert not has_nvidia_gpu()
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA GeForce RTX 3060 (UUID: GPU-1)'\n")
    assert has_nvidia_gpu()
