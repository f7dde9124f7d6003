"""`kernels.c` and its headers, compiled: found beside them, or made once on this machine and kept in the user's cache.

It needs no header of torch's or Python's and no interface of theirs, so what was compiled once goes with every version
of both. A C compiler is all that it takes (`cc`, `gcc` or `clang`, or the one that the package ziglang has; some
seconds); where there is none, or `SHARDBOARD_KERNELS=0` stands in the environment of the agent, weights stay in blocks
all the same and are multiplied by slower means, which the stage's ways tell.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import platformdirs
import torch

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("kernels.c")
"""What is compiled; the headers that it includes stand beside it."""
COMPILERS = ("cc", "gcc", "clang")
FLAGS = ("-O2", "-ftree-vectorize", "-ffp-contract=fast", "-fPIC", "-shared", "-fvisibility=hidden")
LEVELS = {
    "AVX512": (("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"), 16),
    "AVX2": (("-mavx2", "-mfma", "-mf16c"), 8),
}
"""For each level of instructions that torch tells apart on x86: flags, and how many floats a vector has."""
COMPILE_SECONDS = 240.0
TILE_ROWS = 16
"""Rows of input come in so many where the processor multiplies tiles; the last of them are filled up."""


class Kernels:
    """The library, loaded."""

    def __init__(self, library: ctypes.CDLL) -> None:
        pointer, number, flag = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int
        self._multiply, self._unfold = library.shardboard_multiply, library.shardboard_unfold
        self._few, few = library.shardboard_multiply_few, library.shardboard_few
        self._multiply.argtypes = [flag, pointer, number, number, number, pointer, number, pointer, pointer, flag]
        self._few.argtypes = [
            flag, pointer, number, number, number, pointer, number, flag, ctypes.c_double, pointer, flag,
        ]  # fmt: skip
        self.few = functools.cache(lambda kind: int(few(kind)))
        """How many rows of input are few, for a format of this number."""
        self._unfold.argtypes = [flag, pointer, number, number, pointer, number, pointer, flag]
        self._multiply.restype = self._unfold.restype = None
        self._few.restype = few.restype = flag
        few.argtypes = [flag]
        self._tiles, may_use_tiles = library.shardboard_multiply_tiles, library.shardboard_may_use_tiles
        self._tiles.argtypes, self._tiles.restype = self._multiply.argtypes, None
        may_use_tiles.argtypes, may_use_tiles.restype = [], flag
        self.has_tiles = bool(may_use_tiles())
        """Whether the processor multiplies bfloat16 in tiles (Intel's AMX), and this process may use them."""
        self._fit, self._codes = library.shardboard_fit, library.shardboard_codes
        self._fit.argtypes, self._codes.argtypes = [pointer, number, *[pointer] * 2], [pointer, number, *[pointer] * 3]
        self._fit.restype = self._codes.restype = None
        if not _lend(library):
            log.warning("torch's threads cannot be had here: matrices in blocks are multiplied by one thread")

    def multiply(self, kind: int, data: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """float32 [n, columns] times the transposed matrix of blocks `data`: float32 [n, rows]."""
        return self._many(self._multiply, kind, data, given, given.shape[0])

    def multiply_few(self, kind: int, data: torch.Tensor, given: torch.Tensor, allowed: float) -> torch.Tensor:
        """The same for up to `few(kind)` rows, [n, columns] -> [n, rows], in float32 or bfloat16 as they are given.

        Args:
            allowed: which part of what is usual in a row may be lost (root mean square), where that is faster.

        Raises MemoryError.
        """
        rows, size = data.shape
        count, columns = given.shape
        into = torch.empty(count, rows, dtype=given.dtype)
        halves = given.dtype == torch.bfloat16
        if not self._few(
            kind, data.data_ptr(), size, rows, columns // 32, given.data_ptr(), count, halves, allowed,
            into.data_ptr(), torch.get_num_threads(),
        ):  # fmt: skip
            raise MemoryError(f"there is no memory to multiply {count} rows of {columns} numbers")
        return into

    def multiply_tiles(self, kind: int, data: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        """The same with weights rounded to 8 bits, only where there are tiles: bfloat16 [n, columns] -> [n, rows]."""
        return self._many(self._tiles, kind, data, given, -(-given.shape[0] // TILE_ROWS) * TILE_ROWS)

    @staticmethod
    def _many(
        entry: Callable[..., None], kind: int, data: torch.Tensor, given: torch.Tensor, arranged: int
    ) -> torch.Tensor:
        """What one of the entries for many rows writes, in the type of `given`; it lays out so many rows of input."""
        rows, size = data.shape
        count, columns = given.shape
        # Said in each place where the kernels write: transformers changes what torch takes by default, for all threads,
        # while it builds a model in half precision, and the kernels would write twice as far as there is room.
        scratch = torch.empty(arranged, columns, dtype=given.dtype)
        into = torch.empty(count, rows, dtype=given.dtype)
        entry(
            kind, data.data_ptr(), size, rows, columns // 32, given.data_ptr(), count, scratch.data_ptr(),
            into.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        return into

    def unfold(self, kind: int, data: torch.Tensor, chosen: torch.Tensor | None, into: torch.Tensor) -> None:
        """Rows of blocks as float32, into [n, columns]: those whose numbers are chosen, or the first n."""
        count, columns = into.shape
        where = None if chosen is None else chosen.data_ptr()
        threads = torch.get_num_threads()
        self._unfold(
            kind, data.data_ptr(), data.shape[1], columns // 32, where, count, into.data_ptr(), threads
        )  # fmt: skip

    def fit(self, groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and minimum of each group of float32 [n, 32], for whole numbers from 0 to 15."""
        scales, minima = (torch.empty(len(groups), dtype=torch.float32) for _ in range(2))
        self._fit(groups.data_ptr(), len(groups), scales.data_ptr(), minima.data_ptr())
        return scales, minima

    def codes(self, groups: torch.Tensor, scales: torch.Tensor, minima: torch.Tensor) -> torch.Tensor:
        """The whole numbers of groups with these scales and minima: uint8 [n, 32]."""
        found = torch.empty(groups.shape, dtype=torch.uint8)
        self._codes(groups.data_ptr(), len(groups), scales.data_ptr(), minima.data_ptr(), found.data_ptr())
        return found


def kernels() -> Kernels | None:
    """The kernels, where this machine has them or can make them; else None, and `why_not` tells why."""
    return _loaded()[0]


def why_not() -> str:
    """Why there are no kernels; empty where there are."""
    return _loaded()[1]


@functools.cache
def _loaded() -> tuple[Kernels | None, str]:
    if os.environ.get("SHARDBOARD_KERNELS") == "0":
        return None, "switched off where this agent runs (SHARDBOARD_KERNELS=0)"
    if sys.byteorder != "little":
        return None, "the processor of this node has the other order of bytes"
    flags, width = _level()
    name = f"kernels-{sys.platform}-{platform.machine().lower()}-{width}{'.dll' if sys.platform == 'win32' else '.so'}"
    beside = SOURCE.with_name(name)
    try:
        return Kernels(ctypes.CDLL(str(beside if beside.is_file() else _compiled(name, flags, width)))), ""
    except (OSError, AttributeError, subprocess.SubprocessError, _NoCompiler) as error:
        log.warning("weights in blocks are multiplied without compiled kernels: %s", error)
        return None, str(error)


class _NoCompiler(Exception):
    """Nothing compiles on this machine."""


def _level() -> tuple[tuple[str, ...], int]:
    """Flags for this processor, and the width of its vectors in floats."""
    return LEVELS.get(torch.backends.cpu.get_cpu_capability(), ((), 4))


def _texts() -> list[bytes]:
    """The source and its headers."""
    return [path.read_bytes() for path in (SOURCE, *sorted(SOURCE.parent.glob("*.h")))]


def source_digest() -> str:
    """Which kernels these are: what was measured of others says nothing of them."""
    return hashlib.sha256(b"\0".join(_texts())).hexdigest()[:8]


def _compiled(name: str, flags: tuple[str, ...], width: int) -> Path:
    """The library in the user's cache, made where it is not there. Raises _NoCompiler, OSError."""
    command = (*FLAGS, *flags, f"-DSHARDBOARD_WIDTH={width}")
    digest = hashlib.sha256(b"\0".join((*_texts(), " ".join(command).encode()))).hexdigest()[:16]
    folder = Path(platformdirs.user_cache_dir("shardboard", appauthor=False)) / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_private(folder)
    target = folder / f"{digest}-{name}"
    if target.is_file():
        return target
    said = []
    for compiler in _compilers():
        with tempfile.TemporaryDirectory(dir=folder) as building:
            made = Path(building) / name
            done = subprocess.run(
                [*compiler, *command, "-o", str(made), str(SOURCE)],
                stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=COMPILE_SECONDS,
                check=False,
            )  # fmt: skip
            if done.returncode == 0:
                made.replace(target)  # whole or not at all: other agents of this user may look for it now
                log.info("compiled the kernels for weights in blocks: %s", target)
                return target
            said.append(
                f"{compiler[0]} could not build them: {next(iter(done.stderr.splitlines()), 'it said nothing')}"
            )
    if said:
        raise _NoCompiler("; ".join(said))
    raise _NoCompiler("this node has no C compiler to build them with: install gcc or clang, or the package ziglang")


def _compilers() -> Iterator[tuple[str, ...]]:
    """The C compilers of this node; last the one that comes as a Python package."""
    for each in COMPILERS:
        found = shutil.which(each)
        # What stands there on a Mac without developer tools only asks the user to install them.
        if found and (sys.platform != "darwin" or not found.startswith("/usr/bin/") or _has_developer_tools()):
            yield (found,)
    if importlib.util.find_spec("ziglang") is not None:
        yield (sys.executable, "-m", "ziglang", "cc")


def _has_developer_tools() -> bool:
    asked = subprocess.run(["xcode-select", "-p"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    return asked.returncode == 0


def _check_private(folder: Path) -> None:
    """What is loaded into this process must be nobody else's. Raises OSError."""
    if not hasattr(os, "geteuid"):
        return
    found = folder.stat()
    if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
        raise OSError(f"others may write to {folder}, so no program is loaded from it; take their right to")


def _lend(library: ctypes.CDLL) -> bool:
    """Give the library the threads that torch computes with. False where their runtime has no such entries."""
    for path in _openmp_runtimes():
        try:
            runtime = ctypes.CDLL(str(path))
            entries = [
                ctypes.cast(entry, ctypes.c_void_p) for entry in (runtime.GOMP_parallel, runtime.omp_get_thread_num)
            ]
        except (OSError, AttributeError):
            continue
        library.shardboard_lend.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
        library.shardboard_lend(*entries)
        return True
    return False


def _openmp_runtimes() -> list[Path]:
    """The OpenMP runtimes that torch may have brought, those of its own folder first."""
    own = Path(torch.__file__).parent / "lib"
    found = [path for pattern in ("libgomp*", "libomp*", "libiomp5*") for path in sorted(own.glob(pattern))]
    if sys.platform == "linux":
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "omp" in line}
        # A wheel may keep its libraries beside the package, and a system its own elsewhere.
        found += [Path(each) for each in sorted(mapped) if "torch" in each or each.startswith("/usr")]
        found = [path for path in found if str(path.resolve()) in mapped or str(path) in mapped]
    return found
