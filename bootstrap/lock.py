"""One set-up at a time: a lock that the system lets go when its holder ends, however it ends."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def exclusive(path: Path, waiting: str) -> Iterator[int]:
    """Hold the lock file, after saying `waiting` once if another process holds it. Yields its descriptor.

    A child that inherits the descriptor (POSIX) keeps the lock: when the set-up is killed and its pip lives on for
    a moment, nobody else writes into the same environment meanwhile.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        told = False
        while not _try_lock(descriptor):
            if not told:
                print(waiting, file=sys.stderr, flush=True)
                told = True
            time.sleep(0.3)
        yield descriptor
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
