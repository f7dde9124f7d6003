"""A part's content: byte ranges of its tensors, one after another, read in chunks for sending and hashing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from app.errors import ModelError
from app.models.description import PartSource
from worker_agent.wire.messages import CHUNK_BYTES


def part_bytes(
    folder: Path, source: PartSource, offset: int = 0, length: int | None = None, *, chunk: int = CHUNK_BYTES
) -> Iterator[bytes]:
    """Bytes [offset, offset + length) of a part's content, in pieces of at most `chunk` bytes.

    Memory stays at one chunk, whatever the part's size. Pieces end at tensors' ends too.

    Args:
        folder: the model's folder.
        source: the part.
        offset: first byte wanted.
        length: how many; None for all that is left.

    Raises:
        ModelError: a file is gone or shorter than it was when the model was inspected.
    """
    end = source.nbytes if length is None else min(source.nbytes, offset + length)
    position = 0
    for tensor in source.tensors:
        begin, finish = max(offset, position), min(end, position + tensor.nbytes)
        if begin < finish:
            yield from _range(folder / tensor.file, tensor.offset + begin - position, finish - begin, chunk)
        position += tensor.nbytes


def _range(path: Path, offset: int, length: int, chunk: int) -> Iterator[bytes]:
    try:
        with path.open("rb", buffering=0) as file:
            file.seek(offset)
            while length:
                piece = file.read(min(chunk, length))
                if not piece:
                    raise ModelError(f"{path} is shorter than it was when the model was added.", "Add the model again.")
                length -= len(piece)
                yield piece
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
