"""What kind of machine this is, as far as the choice of packages goes."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CPU_TORCH = "torch==2.13.0"
"""What is asked for on Linux without an NVIDIA GPU.

PyTorch publishes its CPU build under the same version with a local label, `2.13.0+cpu`, and `==` accepts any label
and prefers one to none. So wherever pip has been told of an index that offers CPU builds (PIP_EXTRA_INDEX_URL, or
`extra-index-url` in pip's configuration), this takes that build, some 200 MB, and needs to name no index itself.
An open request as `torch>=2.13` would take the newest release from wherever it is, which on Linux brings along
several GB of CUDA. Where no CPU builds are offered, the default build is installed; it runs on the CPU as well.
"""

DEFAULT_TORCH = "torch>=2.13,<2.15"
"""With an NVIDIA GPU on Linux, and on macOS and Windows, the index's default build is the right one. The releases are
those that pyproject.toml allows."""


@dataclass(frozen=True)
class Machine:
    system: str
    """As `platform.system()` says it: Linux, Darwin, Windows."""
    nvidia: bool
    debian: bool
    """Whether Debian's package manager is there (also on Ubuntu and its kin)."""
    root: bool

    @classmethod
    def look(cls) -> Machine:
        return cls(
            system=platform.system(),
            nvidia=has_nvidia_gpu(),
            debian=Path("/etc/debian_version").exists() and shutil.which("apt-get") is not None,
            root=hasattr(os, "geteuid") and os.geteuid() == 0,
        )


def has_nvidia_gpu() -> bool:
    """Whether NVIDIA's driver lists a GPU. Its tool may be installed without a driver or without a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listed.returncode == 0 and "GPU" in listed.stdout


def torch_requirement(machine: Machine) -> str:
    """The requirement for torch that pip is given besides the project's own."""
    return CPU_TORCH if machine.system == "Linux" and not machine.nvidia else DEFAULT_TORCH


def space_needed(machine: Machine) -> int:
    """Bytes that a new environment and its downloads take, generously."""
    return 12_000_000_000 if machine.system == "Linux" and machine.nvidia else 3_000_000_000
