"""What is stored and sent: the parts that a model is made of."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import (
    U63,
    Digest,
    Layer,
)

BLOCK_FORMATS: dict[str, tuple[int, int]] = {
    "Q4_0": (32, 18), "Q4_1": (32, 20), "Q5_0": (32, 22), "Q5_1": (32, 24), "Q8_0": (32, 34), "Q2_K": (256, 84),
    "Q3_K": (256, 110), "Q4_K": (256, 144), "Q5_K": (256, 176), "Q6_K": (256, 210), "IQ4_NL": (32, 18),
    "IQ4_XS": (256, 136), "MXFP4": (32, 17), "INT4_32": (32, 21), "INT4_128": (128, 69), "INT8_32": (32, 40),
    "INT8_128": (128, 136), "FP8_32": (32, 36), "FP8_128": (128, 132), "NF4_32": (32, 20),
    "NF4_64": (64, 36), "FP4_32": (32, 20), "FP4_64": (64, 36), "AFFINE4_32": (32, 24), "AFFINE4_64": (64, 40),
}  # fmt: skip
"""Matrices in blocks: how many weights of a row a block holds, and in how many bytes. The formats of GGUF files, and
our own, which hold the matrices of other quantized models exactly (`blocks/formats.py`).
"""

CODE_TABLES: dict[str, tuple[float, ...]] = {
    "NF4": (
        -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
        -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
        0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
    ),
    "FP4": (
        0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25,
        0.0, -0.0052083334885537624, -0.6666666865348816, -1.0, -0.3333333432674408, -0.5, -0.1666666716337204, -0.25,
    ),
}  # fmt: skip
"""What codes of 4 bits mean that are places in a table: float32 numbers, bitsandbytes' own."""

Quantize = Literal["none", "int8", "int4"]
"""Into what a stage puts its layers' float matrices while it loads."""


def quantized_format(quantize: Quantize, columns: int) -> str:
    """The format of blocks that a matrix gets; empty where it stays as it is."""
    if quantize == "int8" and columns % 32 == 0:
        return "Q8_0"
    if quantize == "int4" and columns % 32 == 0:
        return "Q4_1" if columns % 256 else "Q4_K"
    return ""


FLOATING = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"})
"""safetensors' dtypes that a stage turns into its compute dtype."""
LEAST_QUANTIZED = 4096
"""Matrices with fewer elements stay as they are."""
RECORDED_LAYER_BYTES = 1_100_000
"""What the recording of a layer (TorchScript) takes of main memory, whatever the layer's width: measured over 2 to 60
layers of a Llama shape."""


class PartTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of a part, under the name it has in the model's files."""

    name: Annotated[str, Meta(min_length=1, max_length=500)]
    dtype: Annotated[str, Meta(max_length=12)]
    """safetensors' dtype code: F32, BF16, F16, …; or the format of its blocks: Q4_K, Q8_0, …"""
    shape: Annotated[tuple[U63, ...], Meta(max_length=8)]
    nbytes: U63

    def loaded_bytes(self, itemsize: int, quantize: Quantize = "none", *, in_layer: bool = False) -> int:
        """Bytes that it takes once loaded. Both halves count with this, so that a plan says what a stage will hold.

        Args:
            itemsize: of an element of the compute dtype.
            in_layer: whether it belongs to a layer; what stands at the ends is not quantized.
        """
        return loaded_bytes(self.name, self.dtype, self.shape, self.nbytes, itemsize, quantize if in_layer else "none")


def loaded_bytes(name: str, dtype: str, shape: tuple[int, ...], nbytes: int, itemsize: int, quantize: Quantize) -> int:
    """Bytes that a tensor takes once loaded: blocks stay blocks, floats take the compute dtype or are quantized."""
    if dtype not in FLOATING:
        return nbytes
    elements = math.prod(shape)
    matrix = len(shape) == 2 and name.endswith(".weight")
    experts = len(shape) == 3 and ".experts." in name
    if (matrix or experts) and shape[-2] * shape[-1] >= LEAST_QUANTIZED:
        format_ = quantized_format(quantize, shape[-1])
        if format_:
            weights, size = BLOCK_FORMATS[format_]
            return elements // weights * size
    return elements * itemsize


PartKind = Literal["first", "layer", "last", "tied", "common"]


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """The unit that is stored and sent: one layer, or what stands at an end of the model.

    `first` goes to the first stage (embeddings), `last` to the last (final norm, LM head), `tied` to
    both (an embedding that is also the head), `common` to every stage. The content is the tensors'
    bytes one after another, without padding; `digest` is its BLAKE3 hash in hex.
    """

    kind: PartKind
    index: Layer
    """The layer's number; 0 for the other kinds."""
    tensors: Annotated[tuple[PartTensor, ...], Meta(max_length=200_000)]
    digest: Digest

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)
