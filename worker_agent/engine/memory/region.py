"""Address space that takes memory only where it is written, and gives it back when asked.

Rows of keys and values grow at their end for as long as a sequence lives, and nobody knows how long that will be. So
each gets as much address space as it may ever need, and memory comes page by page as it fills: nothing is copied to
grow, and nothing is taken for tokens that never come. Needs a system that promises memory without having it
(Linux, macOS); elsewhere, and where the system refuses, `reserve` gives None and rows grow by copying.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from contextlib import suppress

import torch

_NORESERVE = 0x4000
"""MAP_NORESERVE on Linux: what is not written is not counted against what the system has promised."""
_FIXED = 0x10
"""MAP_FIXED, the same on Linux and macOS: in the place of what is there."""


def _no_reserve() -> int:
    return _NORESERVE if sys.platform == "linux" else 0


@functools.cache
def _libc() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    size, number = ctypes.c_size_t, ctypes.c_int
    library.mmap.argtypes = (ctypes.c_void_p, size, number, number, number, ctypes.c_longlong)
    library.mmap.restype = ctypes.c_void_p
    return library


class Region:
    """A tensor in address space of its own."""

    def __init__(self, space: mmap.mmap, tensor: torch.Tensor) -> None:
        self._space, self.tensor = space, tensor

    def give_back(self, start: int, nbytes: int) -> None:
        """The memory behind these bytes goes back to the system; they read as zeros. Both are multiples of a page."""
        if sys.platform == "linux":
            self._space.madvise(mmap.MADV_DONTNEED, start, nbytes)
        else:
            self._map_anew(start, nbytes)

    def _map_anew(self, start: int, nbytes: int) -> None:
        """`give_back` where MADV_DONTNEED is a hint that neither frees nor clears what nobody else has (macOS): other
        pages, which have never been written, take the place of these."""
        address = self.tensor.data_ptr() + start
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED | _no_reserve()
        found = _libc().mmap(address, nbytes, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
        if found != address:
            number = ctypes.get_errno()
            raise OSError(number, f"memory of sequences that are over could not be given back: {os.strerror(number)}")


def reserve(shape: tuple[int, ...], dtype: torch.dtype) -> Region | None:
    """A tensor of zeros that takes no memory yet; None where the system does not do such a thing."""
    if not reserves():
        return None
    count = 1
    for extent in shape:
        count *= extent
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _no_reserve()
    try:
        space = mmap.mmap(-1, count * dtype.itemsize, flags=flags)
    except (OSError, ValueError, OverflowError):
        return None
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with suppress(OSError):  # a kernel without huge pages
            space.madvise(mmap.MADV_NOHUGEPAGE)  # one would take 2 MB for the first token of a row
    return Region(space, torch.frombuffer(space, dtype=dtype).view(shape))


def reserves() -> bool:
    """Whether the system promises memory that it may not have."""
    return sys.platform in ("linux", "darwin")


def page_bytes() -> int:
    return mmap.PAGESIZE
