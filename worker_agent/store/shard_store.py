"""Parts of models on disk, by content: receive, resume, verify, evict.

`parts/<digest>` is a whole part whose hash was checked when it came, `parts/<digest>.partial` one that is
still coming. A part that is whole and wrong, or half and named whole, never stands there.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from worker_agent.wire.errors import BadWeights, DamagedPart, DiskFull
from worker_agent.wire.files import sync_folder
from worker_agent.wire.messages import Buffer

log = logging.getLogger(__name__)

WANTED_SECONDS = 3600.0
"""So long after it was offered a part is not evicted: its stage may be about to be loaded."""
_OPEN_PARTS = 4
"""How many parts may come at once without being read again for their hash."""
_DISK_FULL = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_PART_NAME = re.compile(r"[0-9a-f]{64}(\.partial)?")
_HASH_BLOCK = 8 * 1024 * 1024
_RESERVE = 256 * 1024 * 1024
"""Disk space left to the rest of the machine, but never more than 1 % of the disk."""


class NoRoom(DiskFull):
    """The parts do not fit on the disk or under the store's limit. Both figures in bytes."""

    def __init__(self, message: str, needed: int, free: int) -> None:
        super().__init__(message)
        self.needed = needed
        self.free = free


@dataclass(frozen=True, slots=True)
class Received:
    """How far a part has come; the next chunk has to begin at `size`."""

    size: int
    complete: bool


class ShardStore:
    """One folder of parts. Any thread may call; calls wait for each other, and for the disk.

    Args:
        limit: bytes that all parts together should take; None for as many as the disk holds.
    """

    def __init__(self, folder: Path, limit: int | None = None) -> None:
        self._folder = folder
        self._limit = limit
        self._lock = threading.RLock()
        self._incoming: OrderedDict[str, _Incoming] = OrderedDict()
        self._pins: Counter[str] = Counter()
        self._wanted: dict[str, float] = {}
        self._verified: set[str] = set()
        folder.mkdir(parents=True, exist_ok=True)

    # --- receiving ---

    def offer(self, digests: Sequence[str], sizes: Sequence[int]) -> tuple[int, ...]:
        """How many bytes of each part are here already.

        Raises:
            NoRoom: the rest would not fit, not even after evicting what is not in use.
        """
        with self._lock:
            for digest in digests:
                self._want(digest)
            held = tuple(self._held(digest) for digest in digests)
            missing = sum(max(0, size - have) for size, have in zip(sizes, held, strict=True))
            self._make_room(missing)
            return held

    def write(self, digest: str, offset: int, total: int, content: Buffer) -> Received:
        """Take the bytes `[offset, offset + len(content))` of a part that has `total`.

        A chunk that does not begin where the part has come to is not written: the answer says where to go on.

        Raises:
            DamagedPart: the part is whole and its hash is wrong; nothing of it is kept.
            NoRoom: the disk is full; what had come before is kept.
        """
        with self._lock:
            self._want(digest)
            held = self._held(digest)
            if self._path(digest).exists():
                return Received(held, True)
            if held > total:
                self._discard(digest)
                held = 0
            if offset != held:
                return Received(held, False)
            if offset == 0:
                self._make_room(total)
            incoming = self._open(digest, held)
            try:
                incoming.append(content)
            except OSError as error:
                self._close(digest)
                if error.errno in _DISK_FULL:
                    raise self._no_room(total - held, self.disk_free) from error
                raise
            if incoming.size < total:
                return Received(incoming.size, False)
            self._finish(digest, total)
            return Received(total, True)

    # --- using ---

    def path(self, digest: str) -> Path:
        """The file of a whole part. Raises BadWeights if it is not here."""
        path = self._path(digest)
        if not path.exists():
            raise BadWeights(f"The part {digest[:12]}… is not on this node. It has to be sent first.")
        return path

    def has(self, digest: str) -> bool:
        """Whether a part is here whole."""
        return self._path(digest).exists()

    def read(self, digest: str, offset: int, length: int) -> tuple[bytes, int]:
        """Bytes `[offset, offset + length)` of a whole part, fewer where it ends, and how many it has.

        Raises BadWeights when it is not here whole.
        """
        path = self.path(digest)
        with self._lock:
            self._want(digest)
            with path.open("rb") as file:
                total = os.fstat(file.fileno()).st_size
                file.seek(offset)
                return file.read(length), total

    def verify(self, digest: str, size: int) -> None:
        """Read a part once per process and check its hash: disks err.

        Raises:
            BadWeights: it is missing.
            DamagedPart: its hash is wrong; it is deleted, so that it will be sent again.
        """
        path = self.path(digest)
        with self._lock:
            os.utime(path)
            if digest in self._verified:
                return
        if path.stat().st_size != size or hash_file(path) != digest:
            with self._lock:
                path.unlink(missing_ok=True)
            raise DamagedPart(
                f"The part {digest[:12]}… was damaged on this node's disk and was deleted. Send it again."
            )
        self._verified.add(digest)

    def pin(self, digests: Iterable[str]) -> None:
        """A stage uses these parts: they are not evicted. Counted; each call wants one `unpin`."""
        with self._lock:
            self._pins.update(digests)

    def unpin(self, digests: Iterable[str]) -> None:
        with self._lock:
            self._pins.subtract(digests)
            self._pins = +self._pins

    @property
    def used(self) -> int:
        """Bytes that all parts take, whole and partial."""
        return sum(size for _, size, _ in self._entries())

    def files(self) -> list[Path]:
        """Those of all whole parts."""
        return [self._folder / name for name, _, _ in self._entries() if not name.endswith(".partial")]

    @property
    def disk_free(self) -> int:
        """Bytes that may still be written to this disk."""
        usage = shutil.disk_usage(self._folder)
        return max(0, usage.free - min(_RESERVE, usage.total // 100))

    def close(self) -> None:
        with self._lock:
            for digest in list(self._incoming):
                self._close(digest)

    # --- inside ---

    def _path(self, digest: str) -> Path:
        return self._folder / digest

    def _partial(self, digest: str) -> Path:
        return self._folder / f"{digest}.partial"

    def _want(self, digest: str) -> None:
        self._wanted[digest] = time.monotonic()
        path = self._path(digest)
        if path.exists():
            os.utime(path)

    def _held(self, digest: str) -> int:
        if digest in self._incoming:
            return self._incoming[digest].size
        for path in (self._path(digest), self._partial(digest)):
            if path.exists():
                return path.stat().st_size
        return 0

    def _open(self, digest: str, held: int) -> _Incoming:
        if digest not in self._incoming:
            while len(self._incoming) >= _OPEN_PARTS:
                self._close(next(iter(self._incoming)))
            self._incoming[digest] = _Incoming(self._partial(digest), held)
        self._incoming.move_to_end(digest)
        return self._incoming[digest]

    def _close(self, digest: str) -> None:
        incoming = self._incoming.pop(digest, None)
        if incoming is not None:
            incoming.close()

    def _discard(self, digest: str) -> None:
        self._close(digest)
        self._partial(digest).unlink(missing_ok=True)

    def _finish(self, digest: str, total: int) -> None:
        incoming = self._incoming[digest]
        actual = incoming.digest_so_far
        try:
            incoming.sync()
        except OSError as error:
            if error.errno in _DISK_FULL:
                raise self._no_room(total, self.disk_free) from error
            raise
        finally:
            self._close(digest)
        if actual != digest:
            self._discard(digest)
            raise DamagedPart(
                f"The part {digest[:12]}… came with the hash {actual[:12]}…: it was damaged on the way or "
                "at its source. Nothing of it was kept; send it again, or check the model's files."
            )
        self._partial(digest).replace(self._path(digest))
        sync_folder(self._folder)
        self._verified.add(digest)

    def _make_room(self, needed: int) -> None:
        """Evict least recently used parts until `needed` bytes fit. Raises NoRoom."""
        limit_free = self._limit - self.used if self._limit is not None else needed
        free = min(self.disk_free, limit_free)
        if free >= needed:
            return
        for name, size, _ in sorted(self._entries(), key=lambda entry: entry[2]):
            digest = name.removesuffix(".partial")
            if self._in_use(digest):
                continue
            (self._folder / name).unlink(missing_ok=True)
            self._verified.discard(digest)
            log.info("evicted part %s of %d bytes to make room", digest[:12], size)
            free += size
            if free >= needed:
                return
        raise self._no_room(needed, max(0, free))

    def _in_use(self, digest: str) -> bool:
        wanted = self._wanted.get(digest)
        if wanted is not None and time.monotonic() - wanted > WANTED_SECONDS:
            del self._wanted[digest]
            wanted = None
        return wanted is not None or self._pins[digest] > 0

    def _entries(self) -> list[tuple[str, int, float]]:
        """(file name, bytes, last used) of each part."""
        found = []
        for path in self._folder.iterdir():
            if _PART_NAME.fullmatch(path.name):  # what else lies there is not ours to count, or to evict
                status = path.stat()
                found.append((path.name, status.st_size, status.st_mtime))
        return found

    def _no_room(self, needed: int, free: int) -> NoRoom:
        limit = "" if self._limit is None else f" (the store's limit is {_gigabytes(self._limit)})"
        return NoRoom(
            f"The disk of this node is too full for the layers: {_gigabytes(needed)} are needed, "
            f"{_gigabytes(free)} are free in {self._folder}{limit}. Free some space, or give this node fewer layers.",
            needed,
            free,
        )


class _Incoming:
    """A part that is being received: its file stays open and its hash is kept up with it."""

    def __init__(self, path: Path, held: int) -> None:
        self.size = held
        self._hash = blake3()
        if held:
            _hash_into(self._hash.update, path)
        self._file = path.open("r+b" if held else "wb", buffering=0)
        self._file.seek(held)

    def append(self, content: Buffer) -> None:
        """Write all of it, or leave the file as long as it was and raise OSError."""
        view = memoryview(content)
        written = 0
        try:
            while written < len(view):
                written += self._file.write(view[written:]) or 0
        except OSError:
            self._file.truncate(self.size)
            raise
        self._hash.update(view)
        self.size += len(view)

    @property
    def digest_so_far(self) -> str:
        return self._hash.hexdigest()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def hash_file(path: Path) -> str:
    """BLAKE3 of a file's content, in hex."""
    hasher = blake3()
    _hash_into(hasher.update, path)
    return hasher.hexdigest()


def _hash_into(update: Callable[[Buffer], object], path: Path) -> None:
    with path.open("rb") as file:
        while block := file.read(_HASH_BLOCK):
            update(block)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e7 else f"{count / 1e6:.2f} MB"
