"""What the machine has and how busy it is: CPU, memory, disk, GPUs.

A thread samples the figures once a second; whoever wants them takes the last sample and never waits.
"""

from __future__ import annotations

import logging
import os
import platform
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from worker_agent.host.disk import DiskMeter
from worker_agent.wire.messages import Gpu

log = logging.getLogger(__name__)

SAMPLE_SECONDS = 1.0
SETTLING_SECONDS = 5.0
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: the machine's, or the container's where that has less."""

    total: int
    available: int


@dataclass(frozen=True)
class Sample:
    """The machine at one moment. Percentages are of one machine (cpu) and of one core (process)."""

    cpu_percent: float
    process_cpu_percent: float
    load_1m: float
    memory: Memory
    process_memory: int
    disk_free: int
    gpus: tuple[Gpu, ...]
    process_memory_at: float
    """When it held that, by the monotonic clock."""


def cpu_name() -> str:
    """The processor as the system names it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()[:200]
    return (platform.processor() or platform.machine())[:200]


def read_memory() -> Memory:
    machine = psutil.virtual_memory()
    limit, used = _container_memory()
    if limit is None or limit >= machine.total:
        return Memory(machine.total, machine.available)
    return Memory(limit, max(0, min(machine.available, limit - used)))


def _container_memory() -> tuple[int | None, int]:
    """A Linux control group's limit, and what it uses of it without the files that could be given back."""
    try:
        limit = (_CGROUP / "memory.max").read_text().strip()
        if limit == "max":
            return None, 0
        used = int((_CGROUP / "memory.current").read_text())
        for line in (_CGROUP / "memory.stat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "inactive_file":
                used -= int(value)
        return int(limit), max(0, used)
    except (OSError, ValueError):
        return None, 0


class GpuReader:
    """The GPUs as NVIDIA's library tells them, else as torch does where it is in use; none otherwise."""

    def __init__(self) -> None:
        self._nvml = _load_nvml()

    def read(self) -> tuple[Gpu, ...]:
        return self._from_nvml() if self._nvml is not None else _from_torch()

    def _from_nvml(self) -> tuple[Gpu, ...]:
        nvml = self._nvml
        found = []
        for index in range(min(64, nvml.nvmlDeviceGetCount())):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            name = nvml.nvmlDeviceGetName(handle)
            memory = nvml.nvmlDeviceGetMemoryInfo(handle)
            try:
                load: float | None = float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            except nvml.NVMLError:
                load = None  # a GPU that is split into instances tells no load
            text = name.decode() if isinstance(name, bytes) else str(name)
            found.append(
                Gpu(
                    name=text[:200],
                    memory_total=memory.total,
                    memory_free=memory.free,
                    load=load,
                    power=self._watts(nvml.nvmlDeviceGetPowerUsage, handle),
                    power_limit=self._watts(nvml.nvmlDeviceGetEnforcedPowerLimit, handle),
                )
            )
        return tuple(found)

    def _watts(self, asked: Callable[[Any], int], handle: Any) -> float | None:
        """None where the GPU does not tell, as many small ones."""
        try:
            return max(0.0, float(asked(handle)) / 1000)
        except self._nvml.NVMLError:
            return None


def _load_nvml() -> Any:
    """NVIDIA's library, which has no types; None where it or its driver is missing."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        log.debug("no NVIDIA driver: %s", error)
        return None
    return pynvml


def _from_torch() -> tuple[Gpu, ...]:
    import torch

    if torch.cuda.is_available():
        found = []
        for index in range(min(64, torch.cuda.device_count())):
            free, total = torch.cuda.mem_get_info(index)
            found.append(Gpu(name=torch.cuda.get_device_name(index)[:200], memory_total=total, memory_free=free))
        return tuple(found)
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = max(0, total - torch.mps.driver_allocated_memory())
        return (Gpu(name="Apple GPU (shared memory)", memory_total=total, memory_free=free),)
    return ()


def default_budget(device: str) -> int:
    """80 % of the memory that is free now where the device computes, in bytes."""
    if device.startswith("cuda"):
        import torch

        free, _ = torch.cuda.mem_get_info(device)
        return int(free * 0.8)
    return int(read_memory().available * 0.8)


class Telemetry(threading.Thread):
    """Samples once a second until it is stopped.

    Args:
        disk_free: bytes that may be written to the disk of the shard store.
        files: of the shard store, by which its disk's speed is measured.
    """

    def __init__(self, disk_free: Callable[[], int], files: Callable[[], Iterable[Path]] = tuple) -> None:
        super().__init__(name="telemetry", daemon=True)
        self.disk = DiskMeter(files)
        self._disk_free = disk_free
        self._process = psutil.Process()
        self._gpus = GpuReader()
        self._stopping = threading.Event()
        self.is_measuring: Callable[[], bool] = lambda: False
        """Whether the machine's speed is measured at this moment, with memory that is taken for that alone."""
        self.on_sample: Callable[[Sample, float], None] = lambda sample, now: None
        """Told of each sample, and when it was taken by the monotonic clock; in this thread."""
        self._held = (0, 0.0)
        self.latest = self._sample()

    def run(self) -> None:
        while not self._stopping.wait(SAMPLE_SECONDS):
            try:
                self.latest = self._sample()
                self.on_sample(self.latest, time.monotonic())
            # a sensor that fails for a moment must not silence the others for good
            except Exception:
                log.exception("the machine's figures could not be read")

    def stop(self) -> None:
        self._stopping.set()

    def settled_memory(self) -> int:
        """Bytes that the process holds now. Waits, some tenths of a second, while its speed is measured."""
        deadline = time.monotonic() + SETTLING_SECONDS
        while self.is_measuring() and time.monotonic() < deadline:
            time.sleep(0.02)
        held: int = self._process.memory_info().rss
        return held

    def _sample(self) -> Sample:
        held, at = self._process_memory()
        try:
            load_1m = os.getloadavg()[0]
        except (AttributeError, OSError):
            load_1m = psutil.getloadavg()[0]
        return Sample(
            cpu_percent=min(100.0, max(0.0, psutil.cpu_percent())),
            process_cpu_percent=max(0.0, self._process.cpu_percent()),
            load_1m=load_1m,
            memory=read_memory(),
            process_memory=held,
            disk_free=self._disk_free(),
            gpus=self._gpus.read(),
            process_memory_at=at,
        )

    def _process_memory(self) -> tuple[int, float]:
        """What the process holds, and when; while its speed is measured, what it held before."""
        was_measuring, at, held = self.is_measuring(), time.monotonic(), self._process.memory_info().rss
        if not (was_measuring or self.is_measuring()):
            self._held = held, at
        return self._held
