"""BLAKE3 digests of parts, computed when first asked for and kept beside the model's description.

A digest holds as long as the files that it was made from keep their size and time of change.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import msgspec
from blake3 import blake3

from app.atomic_file import write_atomically
from app.children.work import Meter, ProgressCallback
from app.errors import Cancelled, ModelError
from app.models.description import FileStamp, ModelDescription, PartSource
from app.models.part_bytes import part_bytes
from worker_agent.wire.messages import Part


class _Stored(msgspec.Struct, frozen=True):
    """What the file of digests holds."""

    files: tuple[FileStamp, ...]
    digests: dict[str, str]
    """'kind/index' -> digest"""


class PartDigests:
    """The digests of one model's parts. Thread-safe; hashing lets other threads run.

    Args:
        description: the model.
        cache: the file to keep them in; None to keep them in memory only.
    """

    def __init__(self, description: ModelDescription, cache: Path | None = None) -> None:
        self.description = description
        self._cache = cache
        self._lock = threading.Lock()
        self._known: dict[str, str] = self._read()

    def parts(
        self,
        sources: Iterable[PartSource] | None = None,
        *,
        on_progress: ProgressCallback | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> tuple[Part, ...]:
        """These parts (all of the model's when None) with their digests; unknown ones are computed.

        Raises:
            ModelError: the files have changed since the model was added.
            Cancelled: `cancelled` said so; what was computed until then is kept.
        """
        wanted = tuple(self.description.parts if sources is None else sources)
        with self._lock:
            if changed := self.description.changed_files():
                raise ModelError(
                    f"The files of '{self.description.name}' have changed since it was added: "
                    f"{', '.join(changed[:3])}.",
                    "Remove the model and add it again.",
                )
            unknown = [part for part in wanted if part.digest is None and _key(part) not in self._known]
            meter = Meter(on_progress, "hashing", sum(part.nbytes for part in unknown))
            try:
                for part in unknown:
                    self._known[_key(part)] = self._hash(part, meter, cancelled)
            finally:
                if unknown:
                    self._write()
            return tuple(part.part(part.digest or self._known[_key(part)]) for part in wanted)

    def content(self) -> str:
        """A digest over the digests of all parts, equal for equal weights; empty while one is not known yet."""
        found = {_key(part): part.digest or self._known.get(_key(part)) for part in self.description.parts}
        if not found or not all(found.values()):
            return ""
        lines = "".join(f"{key} {digest}\n" for key, digest in sorted(found.items()))
        return blake3(lines.encode("ascii")).hexdigest()

    def _hash(self, part: PartSource, meter: Meter, cancelled: Callable[[], bool]) -> str:
        hasher = blake3()
        for piece in part_bytes(self.description.path, part):
            if cancelled():
                raise Cancelled("Hashing the model's layers was cancelled.")
            hasher.update(piece)
            meter.advance(len(piece))
        return hasher.hexdigest()

    def _read(self) -> dict[str, str]:
        if self._cache is None:
            return {}
        try:
            stored = msgspec.json.decode(self._cache.read_bytes(), type=_Stored)
        except (OSError, msgspec.DecodeError):  # none yet, or damaged: a cache is simply made anew
            return {}
        return dict(stored.digests) if stored.files == self.description.files else {}

    def _write(self) -> None:
        if self._cache is not None:
            write_atomically(self._cache, msgspec.json.encode(_Stored(self.description.files, self._known)))


def _key(part: PartSource) -> str:
    return f"{part.kind}/{part.index}"
