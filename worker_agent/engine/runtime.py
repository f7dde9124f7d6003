"""What a stage computes with: the device, and how many threads the CPU's kernels may use.

Two agents on one machine each own a share of the cores. Only one of them computes while a single step is
in flight, so for such a step it borrows the others' idle cores (`borrowed`); with several steps in flight
each keeps to its share. OpenMP threads spin only for a moment (`KERNEL_SETTINGS`): long enough to stay awake from
one matrix to the next, too short to take the core from the other agent. And only the compute thread has
OpenMP threads at all (`keep_single`): with more of them than cores, GNU's OpenMP stops spinning altogether,
which costs a third of the speed.

For packed weights oneDNN writes a program for each shape of a matrix and each count of rows, half a megabyte each, and
by default keeps the last thousand: prompts of many lengths came to several hundred megabytes. Writing one takes some
milliseconds, many times as long as the multiplication. A decode step needs one for each shape of matrix, a handful; so
does a prompt, whose passes have few different numbers of rows (`packed.fills_up`). 64 are enough for both as a rule.
"""

from __future__ import annotations

import os
import platform
from collections.abc import MutableMapping
from dataclasses import dataclass

from worker_agent.process import usable_cores
from worker_agent.wire.messages import Numerics

KERNEL_SETTINGS = {
    "OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "50000", "KMP_BLOCKTIME": "1",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "64", "LRU_CACHE_CAPACITY": "64",
}  # fmt: skip
"""How OpenMP threads wait for work; how many of its programs oneDNN keeps, and torch's binding to it in each thread.
They must stand in the environment before torch is imported."""


def set_up_kernels(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set KERNEL_SETTINGS, except what the user has set."""
    for name, value in KERNEL_SETTINGS.items():
        environment.setdefault(name, value)


def keep_single() -> None:
    """Have the calling thread compute without OpenMP threads of its own: for every thread but the compute one."""
    import torch

    os.environ.setdefault("HF_DEACTIVATE_ASYNC_LOAD", "1")  # transformers would load in four more threads
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Runtime:
    """A device and a share of the machine's cores."""

    device: str
    """`cpu`, `cuda:0`, … or `mps`."""
    threads: int
    """This agent's share of the cores."""
    borrowed: int
    """Threads for a step that is alone in flight: at least `threads`, at most all cores."""

    @classmethod
    def choose(cls, device: str | None = None, threads: int | None = None, borrowed: int | None = None) -> Runtime:
        """What was asked for, else the first GPU and all cores that this process may use.

        `OMP_NUM_THREADS` counts as a wish for both numbers of threads, as it does for all that computes with OpenMP.
        """
        import torch

        if device is None:
            device = "cuda:0" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        torch.device(device)  # a wrong name is refused here, with torch's own words
        cores = os.cpu_count() or 1
        wanted = os.environ.get("OMP_NUM_THREADS", "")
        usual = max(1, int(wanted)) if wanted.isdecimal() else usable_cores()
        share = min(threads or usual, cores)
        return cls(device=device, threads=share, borrowed=max(share, min(borrowed or usual, cores)))

    def apply(self, *, alone: bool) -> None:
        """Set the number of threads for the next step."""
        import torch

        wanted = self.borrowed if alone else self.threads
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)

    def numerics(self) -> Numerics:
        """What Welcome tells of it."""
        import torch
        import transformers

        device = torch.device(self.device)
        capability = torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else platform.machine()
        if device.type == "cuda":
            capability = ".".join(str(part) for part in torch.cuda.get_device_capability(device))
        return Numerics(
            device=self.device,
            torch=str(torch.__version__),
            transformers=transformers.__version__,
            threads=self.threads,
            dtypes=("float32", "bfloat16", "float16"),
            capability=capability,
        )
