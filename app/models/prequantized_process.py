"""Child process: writes a quantized Hugging Face model with its matrices in blocks, which mean exactly the same.

Nothing is computed with but numpy, a matrix after another, some rows at a time; other tensors are copied. What no
format of blocks holds exactly becomes floats, and the outcome's notes say so.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from app.children.work import Meter, ProgressCallback, serve_job
from app.errors import DiskFullError, ModelError
from app.figures import size_text
from app.models.checkpoint import (
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    MORE_CHAT_TEMPLATES,
    TOKENIZER_FILES,
    WEIGHTS,
    Checkpoint,
    read_checkpoint,
)
from app.models.description import STORED_ITEM_BYTES, TensorSource
from app.models.prequantized import Prequantized, RepackOutcome, RepackRequest, plain_config, read_prequantized
from app.models.prequantized_layouts import find
from app.models.prequantized_matrix import Contents, Matrix, Stack
from app.models.safetensors_file import aligned_order, write_header
from worker_agent.wire.messages import BLOCK_FORMATS, CODE_TABLES

Array = NDArray[Any]

CHUNK_WEIGHTS = 1 << 22
"""Weights that are worked on at a time, so that memory holds little, whatever a matrix has."""
COPY_BYTES = 1 << 24
WIDTHS = (32, 64, 128)
"""How many weights a block may have; the more, the fewer scales are repeated."""
DAMAGED = "The files are damaged; get them again."
SPARE_BYTES = 64 * 1024 * 1024

FLOAT_DTYPES = {"float16": "F16", "bfloat16": "BF16", "float32": "F32"}


@dataclass(frozen=True)
class Output:
    """A tensor to write."""

    tensor: TensorSource
    """What it will be; `file` is where it goes, the offset means nothing."""
    reads: int
    """Bytes that are read for it."""
    content: Callable[[], Iterator[Array]]
    """Its bytes, in pieces."""


def repack(request: RepackRequest, report: ProgressCallback) -> RepackOutcome:
    """Write the quantized model in `request.folder` to the folder `request.target`.

    Raises:
        BadInput: there is no such folder.
        ModelError: its files are damaged, or not what its config says.
        DiskFullError: the disk filled up, or has not enough space.
    """
    folder, target = Path(request.folder), Path(request.target)
    checkpoint, how = read_checkpoint(folder), read_prequantized(folder)
    if how is None:
        raise ModelError(f"The model in {folder} is not quantized: its config.json says nothing of it.")
    target.mkdir(parents=True, exist_ok=True)
    repacking = _Repacking(checkpoint, how)
    needed = sum(output.tensor.nbytes for output in repacking.outputs) + SPARE_BYTES
    if needed > (free := shutil.disk_usage(target).free):
        raise DiskFullError(
            f"The model in {folder} needs {size_text(needed)} at {target.parent} with its matrices in blocks, and "
            f"{size_text(free)} are free.",
            "Free some space, or move the models with MODEL_CACHE_DIR.",
        )
    try:
        meter = Meter(report, "converting", sum(output.reads for output in repacking.outputs))
        _write(repacking.outputs, target, meter)
        (target / CONFIG).write_bytes(plain_config(checkpoint.config))
        for name in (*TOKENIZER_FILES, GENERATION_CONFIG):
            if (folder / name).is_file():
                shutil.copyfile(folder / name, target / name)
        if (folder / MORE_CHAT_TEMPLATES).is_dir():
            shutil.copytree(folder / MORE_CHAT_TEMPLATES, target / MORE_CHAT_TEMPLATES)
    except OSError as error:
        if error.errno == 28:
            raise DiskFullError(
                f"The disk of {target} filled up while {folder} was converted.", "Free space."
            ) from error
        raise ModelError(f"{folder} cannot be converted: {error}.") from error
    return RepackOutcome((*checkpoint.notes, *repacking.notes()))


def undo(request: RepackRequest) -> None:
    """Remove what was written until the work was broken off."""
    shutil.rmtree(request.target, ignore_errors=True)


class _Repacking:
    """What becomes of each tensor of a model."""

    def __init__(self, checkpoint: Checkpoint, how: Prequantized) -> None:
        self._how, contents = how, Contents(checkpoint.folder)
        fields = msgspec.json.decode(checkpoint.config)
        named = str(fields.get("dtype") or fields.get("torch_dtype") or "").removeprefix("torch.")
        self._dtype = FLOAT_DTYPES.get(named, "")
        self._kept: Counter[str] = Counter()
        self._unfolded: list[tuple[str, str]] = []
        self._grown = [0, 0]
        found = find(contents, checkpoint.tensors, how)
        self.outputs = [self._matrix(matrix) for matrix in found.matrices]
        self.outputs += [self._stack(stack) for stack in found.stacks]
        self.outputs += [Output(tensor, tensor.nbytes, _copied(contents, tensor)) for tensor in found.plain]

    def _matrix(self, matrix: Matrix) -> Output:
        reads = sum(source.nbytes for source in matrix.sources)
        format_, why = format_of(matrix)
        file = matrix.sources[0].file
        shape = (matrix.rows, matrix.columns)
        elements = matrix.rows * matrix.columns
        if format_:
            weights, size = BLOCK_FORMATS[format_]
            self._kept[format_] += 1
            tensor = TensorSource(matrix.name, format_, shape, elements // weights * size, file, 0)
            return Output(tensor, reads, lambda: (in_blocks(matrix, format_, *span) for span in _spans(matrix)))
        dtype = self._dtype or (matrix.scale_dtype if matrix.scale_dtype in FLOAT_DTYPES.values() else "BF16")
        nbytes = elements * STORED_ITEM_BYTES[dtype]
        self._unfolded.append((matrix.name, why))
        self._grown[0] += reads
        self._grown[1] += nbytes
        tensor = TensorSource(matrix.name, dtype, shape, nbytes, file, 0)
        return Output(tensor, reads, lambda: (in_floats(matrix, dtype, *span) for span in _spans(matrix)))

    def _stack(self, stack: Stack) -> Output:
        experts, rows, columns = stack.shape
        nbytes = experts * rows * (columns // 32) * BLOCK_FORMATS["MXFP4"][1]
        self._kept["MXFP4"] += experts
        tensor = TensorSource(stack.name, "MXFP4", stack.shape, nbytes, stack.sources[0].file, 0)
        reads = sum(source.nbytes for source in stack.sources)
        return Output(tensor, reads, lambda: (mxfp4_blocks(stack, expert) for expert in range(experts)))

    def notes(self) -> tuple[str, ...]:
        """What a user should know of the result."""
        notes = []
        if self._kept:
            count = sum(self._kept.values())
            notes.append(
                f"{count} matrices are stored quantized ({self._how.words}); they stay so, as blocks of "
                f"{' and '.join(sorted(self._kept))}, and mean exactly the same."
            )
        if self._unfolded:
            which = "a matrix" if len(self._unfolded) == 1 else f"{len(self._unfolded)} matrices"
            before, after = map(size_text, self._grown)
            reasons = "; ".join(dict.fromkeys(why for _, why in self._unfolded))
            notes.append(
                f"Of {which} of the files, {self._unfolded[0][0]} for one, floats were made, and {before} became "
                f"{after}: {reasons}."
            )
        if self._how.activations:
            notes.append(
                "The files say that what goes into the matrices is to be rounded, too; it is not, so answers are a "
                "little more exact than those of programs that do."
            )
        return tuple(notes)


def format_of(matrix: Matrix) -> tuple[str, str]:
    """The format of blocks that holds a matrix exactly; empty where there is none, and why."""
    if matrix.places is not None:
        return "", "the columns of a group do not stand together (desc_act)"

    def whole(weights: int) -> bool:
        return matrix.columns % weights == 0 and (matrix.group % weights == 0 or matrix.group >= matrix.columns)

    widths = sorted((weights for weights in WIDTHS if f"{matrix.kind}_{weights}" in BLOCK_FORMATS), reverse=True)
    width = next((weights for weights in widths if whole(weights)), 0)
    if not width:
        return "", f"groups of {matrix.group} in rows of {matrix.columns} weights are no whole blocks of 32"
    if matrix.kind in ("INT8", "AFFINE4") and matrix.scale_dtype == "F32" and matrix.read(0, 1).zeros is not None:
        return "", "scales of 32 bits with zeros beside them round twice"
    return f"{matrix.kind}_{width}", ""


def in_blocks(matrix: Matrix, format_: str, start: int, stop: int) -> Array:
    """Rows [start, stop) of a matrix in blocks: uint8 [blocks, bytes of a block]. Raises ModelError."""
    width, size = BLOCK_FORMATS[format_]
    found = matrix.read(start, stop)
    _check_numbers(matrix, found.codes, found.scales)
    places = np.arange(0, matrix.columns, width) // matrix.group
    codes = np.ascontiguousarray(found.codes).view(np.uint8).reshape(-1, width)
    blocks = np.empty((len(codes), size), np.uint8)
    scales = np.ascontiguousarray(found.scales[:, places], "<f4").reshape(-1)
    zeros = None if found.zeros is None else found.zeros[:, places].reshape(-1)
    blocks[:, :4] = scales.view(np.uint8).reshape(-1, 4)
    if matrix.kind == "INT4":
        assert zeros is not None
        if zeros.min() < 0 or zeros.max() > 16:
            raise ModelError(
                f"'{matrix.name}' has zeros from {zeros.min()} to {zeros.max()}, and its codes go from 0 to 15.",
                DAMAGED,
            )
        blocks[:, 4] = zeros
        blocks[:, 5:] = _nibbles(codes)
    elif matrix.kind in CODE_TABLES:
        blocks[:, 4:] = _nibbles(codes)
    elif matrix.kind in ("INT8", "AFFINE4"):
        minima = np.zeros_like(scales) if zeros is None else -zeros.astype("<f4") * scales
        blocks[:, 4:8] = minima.view(np.uint8).reshape(-1, 4)
        blocks[:, 8:] = codes if matrix.kind == "INT8" else _nibbles(codes)
    else:
        blocks[:, 4:] = codes
    return blocks


def mxfp4_blocks(stack: Stack, expert: int) -> Array:
    """The matrix of one expert in blocks: uint8 [blocks, bytes of a block]. Raises ModelError."""
    exponents, codes = stack.read(expert)
    if (exponents == 255).any():
        raise ModelError(f"'{stack.name}' holds scales that are no finite number.", DAMAGED)
    blocks = np.empty((exponents.size, BLOCK_FORMATS["MXFP4"][1]), np.uint8)
    blocks[:, 0] = exponents.reshape(-1)
    blocks[:, 1:] = _nibbles(codes.reshape(-1, 32))
    return blocks


def _nibbles(codes: Array) -> Array:
    """Codes of 4 bits [n, m], of each 32 the first half in the low bits: [n, m / 2]."""
    halves = codes.reshape(len(codes), -1, 2, 16)
    packed: Array = halves[:, :, 0] | (halves[:, :, 1] << 4)
    return packed.reshape(len(codes), -1)


def in_floats(matrix: Matrix, dtype: str, start: int, stop: int) -> Array:
    """Rows [start, stop) of a matrix as floats. Raises ModelError."""
    found = matrix.read(start, stop)
    _check_numbers(matrix, found.codes, found.scales)
    return rounded(matrix.floats(found), dtype)


def rounded(numbers: Array, dtype: str) -> Array:
    """float32 numbers in another of safetensors' dtypes, to the nearest."""
    if dtype == "F16":
        return numbers.astype("<f2")
    if dtype == "F32":
        return numbers
    bits = np.ascontiguousarray(numbers).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2")


def _check_numbers(matrix: Matrix, codes: Array, scales: Array) -> None:
    """Raises ModelError where a scale, or FP8 itself, is no number."""
    if not np.isfinite(scales).all() or (matrix.kind == "FP8" and ((codes & 127) == 127).any()):
        raise ModelError(
            f"'{matrix.name}' holds what is no finite number in its {'scales or ' * (matrix.kind == 'FP8')}"
            f"{'codes' if matrix.kind == 'FP8' else 'scales'}.",
            DAMAGED,
        )


def _spans(matrix: Matrix) -> Iterator[tuple[int, int]]:
    """Rows to do at a time, as multiples of 8."""
    step = max(8, CHUNK_WEIGHTS // matrix.columns // 8 * 8)
    return ((start, min(start + step, matrix.rows)) for start in range(0, matrix.rows, step))


def _copied(contents: Contents, tensor: TensorSource) -> Callable[[], Iterator[Array]]:
    def pieces() -> Iterator[Array]:
        content = contents.bytes(tensor)
        return (content[start : start + COPY_BYTES] for start in range(0, len(content), COPY_BYTES))

    return pieces


def _write(outputs: list[Output], target: Path, meter: Meter) -> None:
    """Write files under the names that they had, and an index where there are several."""
    by_name = {output.tensor.name: output for output in outputs}
    files: dict[str, list[TensorSource]] = {}
    for output in outputs:
        files.setdefault(output.tensor.file, []).append(output.tensor)
    for name, tensors in files.items():
        ordered = aligned_order(tuple(tensors))
        with (target / name).open("wb") as file:
            file.write(write_header(ordered))
            for tensor in ordered:
                written = 0
                for piece in by_name[tensor.name].content():
                    written += file.write(np.ascontiguousarray(piece).data)
                assert written == tensor.nbytes, tensor
                meter.advance(by_name[tensor.name].reads)
    if set(files) != {WEIGHTS}:
        index = {
            "metadata": {"total_size": sum(output.tensor.nbytes for output in outputs)},
            "weight_map": {name: output.tensor.file for name, output in sorted(by_name.items())},
        }
        (target / INDEX).write_bytes(msgspec.json.format(msgspec.json.encode(index)))


if __name__ == "__main__":
    serve_job(RepackRequest, repack, undo)
