"""Freed memory goes back to the system.

glibc keeps what a program frees, to hand it out again: blocks under a limit that grows by itself up to 32 MB are cut
from arenas, of which only the top can be given back. Loading a stage frees as much as it keeps, tensor by tensor, so
that a process ends up with twice what it holds. While a stage is loaded, every block of `LARGE` and more is therefore
mapped by itself, and goes back the moment it is freed; while stages run, such blocks come from the arenas again, since
a prompt's activations come and go a thousand times a second. Elsewhere than on glibc this does nothing.

Python's own collections are kept short as well, since every thread of the agent stands still meanwhile: what the
process holds before its first stage, a quarter of a million objects of torch and transformers that stay for as long as
it runs, is taken out of them, and what they look at is the stages alone.

What is mapped anew is filled by the kernel page by page, which takes longer than to compute with it: tiles of matrices
and a trial's activations, which come and go while a stage loads, are therefore smaller than `LARGE`.
"""

from __future__ import annotations

import ctypes
import gc
import mmap
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

LARGE = 8 * 1024 * 1024
_USUAL = 32 * 1024 * 1024
"""The most that glibc maps by itself when it is left alone."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def _glibc() -> Any:
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return None
    try:
        library = ctypes.CDLL("libc.so.6")
        library.mallopt.argtypes, library.mallopt.restype = (ctypes.c_int, ctypes.c_int), ctypes.c_int
        library.malloc_trim.argtypes, library.malloc_trim.restype = (ctypes.c_size_t,), ctypes.c_int
        library.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    except (OSError, AttributeError):
        return None
    return library


_library = _glibc()
_kept_out = False
"""Whether anything has been kept out of collections here; so it is in whatever is forked of this process."""


def give_back() -> None:
    """Return freed memory to the system now. Takes some milliseconds."""
    if _library is not None:
        _library.malloc_trim(0)


def keep_out_of_collections(again: bool = True) -> None:
    """No collection looks any more at what the process holds now: it is to stay for good.

    Args:
        again: also where it has been done before, and what has come since is to stay, too.
    """
    global _kept_out
    if _kept_out and not again:  # asking Python how many objects are kept out counts them, one by one
        return
    gc.collect()
    gc.freeze()
    _kept_out = True


def let_go(tensor: torch.Tensor) -> None:
    """The memory behind a tensor that nobody reads any more goes back to the system, before its storage is freed.

    For the part of a matrix that has been laid out while others have not. Its numbers are undefined from then on.
    """
    if _library is None or tensor.device.type != "cpu" or not tensor.is_contiguous():
        return
    page = mmap.PAGESIZE
    start = -(-tensor.data_ptr() // page) * page
    end = (tensor.data_ptr() + tensor.nbytes) // page * page
    if end > start:
        _library.madvise(start, end - start, mmap.MADV_DONTNEED)


@contextmanager
def large_blocks_apart() -> Iterator[None]:
    """Within this block large blocks are mapped by themselves; after it, freed memory is given back."""
    if _library is not None:
        _library.mallopt(_M_MMAP_THRESHOLD, LARGE)
    try:
        yield
    finally:
        if _library is not None:
            _library.mallopt(_M_MMAP_THRESHOLD, _USUAL)
            _library.mallopt(_M_TRIM_THRESHOLD, 2 * _USUAL)
        give_back()
