"""Writes one shard's safetensors files from byte ranges of the model's, hashing each tensor on the way.

Memory is one block, whatever the model's size. A second thread (`Finisher`) pushes what was written to the
disk meanwhile and reads finished files back, so that both cost next to no time of their own.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3

from app.children.work import Meter
from app.errors import Cancelled, ModelError
from app.models.checkpoint import INDEX, WEIGHTS
from app.models.description import PartSource, TensorSource
from app.models.safetensors_file import aligned_order, write_header
from app.sharding.shard_folder import ShardTensor

BLOCK_BYTES = 1 * 1024 * 1024
PUSH_BYTES = 128 * 1024 * 1024
"""How much is written before the disk is asked to keep up."""


@dataclass(frozen=True)
class WrittenFile:
    """A safetensors file that was just written, and what must be found in it."""

    path: Path
    data_start: int
    tensors: tuple[ShardTensor, ...]
    """In the order of their bytes."""


def split_in_files(parts: Sequence[PartSource], limit: int) -> list[list[PartSource]]:
    """Parts by file, a part never divided, files of at most `limit` bytes unless one part alone is larger."""
    files: list[list[PartSource]] = []
    room = 0
    for part in parts:
        if not files or part.nbytes > room:
            files.append([])
            room = limit
        files[-1].append(part)
        room -= part.nbytes
    return files


def write_shard_files(
    model_folder: Path, target: Path, parts: Sequence[PartSource], limit: int, finisher: Finisher, meter: Meter
) -> tuple[WrittenFile, ...]:
    """Write a shard's weights into the folder `target`: one file, or several and an index.

    The files are on the disk and verified once the finisher is done.

    Raises:
        ModelError: the model's files are shorter than they were.
        OSError: writing failed; ENOSPC when the disk is full.
    """
    files = split_in_files(parts, limit)
    names = [WEIGHTS] if len(files) == 1 else [_name(number, len(files)) for number in range(1, len(files) + 1)]
    written = tuple(
        _write_file(model_folder, target / name, file, finisher, meter) for name, file in zip(names, files, strict=True)
    )
    if len(files) > 1:
        index = {
            "metadata": {"total_size": sum(part.nbytes for part in parts)},
            "weight_map": {tensor.name: file.path.name for file in written for tensor in file.tensors},
        }
        (target / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index)))
    return written


def _name(number: int, count: int) -> str:
    return f"model-{number:05d}-of-{count:05d}.safetensors"


def _write_file(
    model_folder: Path, path: Path, parts: Sequence[PartSource], finisher: Finisher, meter: Meter
) -> WrittenFile:
    owner = {tensor.name: part for part in parts for tensor in part.tensors}
    tensors = aligned_order(tuple(tensor for part in parts for tensor in part.tensors))
    header = write_header(tensors)
    buffer = memoryview(bytearray(BLOCK_BYTES))
    done: list[ShardTensor] = []
    with path.open("wb", buffering=0) as out:
        out.write(header)
        for tensor in tensors:
            digest = _copy(model_folder / tensor.file, tensor, out.fileno(), buffer, finisher, meter)
            part = owner[tensor.name]
            done.append(
                ShardTensor(
                    tensor.name, tensor.dtype, tensor.shape, tensor.nbytes, path.name, part.kind, part.index, digest
                )
            )
    written = WrittenFile(path, len(header), tuple(done))
    finisher.finish(written)
    return written


def _copy(source: Path, tensor: TensorSource, out: int, buffer: memoryview, finisher: Finisher, meter: Meter) -> str:
    """Append a tensor's bytes to the file `out`. Returns their BLAKE3 hash."""
    hasher = blake3()
    left = tensor.nbytes
    with source.open("rb", buffering=0) as file:
        file.seek(tensor.offset)
        while left:
            count = file.readinto(buffer[: min(left, BLOCK_BYTES)])
            if not count:
                raise ModelError(f"{source} is shorter than it was when the model was added.", "Add the model again.")
            hasher.update(buffer[:count])
            _write_all(out, buffer[:count])
            finisher.push(out, count)
            left -= count
            meter.advance(count)
    return hasher.hexdigest()


def _write_all(out: int, block: memoryview) -> None:
    while block:
        block = block[os.write(out, block) :]


class Finisher:
    """A thread that brings written bytes to the disk while others are being written, and verifies finished files.

    Leaving its `with` block waits for all of it and raises what went wrong.
    """

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self._stop = threading.Event()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="finish")
        self._tasks: list[Future[None]] = []
        self._pushing: Future[None] | None = None
        self._waiting = 0

    def __enter__(self) -> Finisher:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            self._stop.set()
        self._pool.shutdown(cancel_futures=kind is not None)
        if kind is None:
            for task in self._tasks:  # an error of an early fsync is told once, and only there
                task.result()

    def push(self, descriptor: int, count: int) -> None:
        """`count` more bytes were written to this file; every now and then they are brought to the disk."""
        self._waiting += count
        if self._waiting >= PUSH_BYTES and (self._pushing is None or self._pushing.done()):
            self._waiting = 0
            self._pushing = self._pool.submit(_push, os.dup(descriptor))
            self._tasks.append(self._pushing)

    def finish(self, written: WrittenFile) -> None:
        """Make a file last and verify it."""
        self._tasks.append(self._pool.submit(self._finish, written))

    def _finish(self, written: WrittenFile) -> None:
        with written.path.open("rb+") as file:
            os.fsync(file.fileno())
        verify_file(written, self._meter, self._stop)


def _push(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def verify_file(written: WrittenFile, meter: Meter, stop: threading.Event) -> None:
    """Read a written file back and compare hashes.

    The system may answer from its memory; that the disk has it too is what fsync has vouched for before.

    Raises:
        ModelError: what is on the disk is not what was written.
        Cancelled: `stop` was set.
    """
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with written.path.open("rb", buffering=0) as file:
        file.seek(written.data_start)
        for tensor in written.tensors:
            hasher = blake3()
            left = tensor.nbytes
            while left and (count := file.readinto(buffer[: min(left, BLOCK_BYTES)])):
                if stop.is_set():
                    raise Cancelled("Cutting the model was cancelled.")
                hasher.update(buffer[:count])
                left -= count
                meter.advance(count)
            if left or hasher.hexdigest() != tensor.blake3:
                raise ModelError(
                    f"Writing {written.path.name} failed: '{tensor.name}' reads back other than it was written.",
                    "Check the disk and cut the model again.",
                )
