"""Tensors to payload frames and back."""

from __future__ import annotations

import numpy as np
import torch

from worker_agent.wire.messages import Buffer, DType, TensorFrame

WIRE_DTYPES = {
    torch.float32: DType.FLOAT32,
    torch.bfloat16: DType.BFLOAT16,
    torch.float16: DType.FLOAT16,
    torch.int32: DType.INT32,
    torch.int64: DType.INT64,
}
TORCH_DTYPES = {wire: dtype for dtype, wire in WIRE_DTYPES.items()}

COPIED_BELOW = 64 * 1024
"""Smaller frames are copied at once; larger ones are sent from the tensor's own memory, which nobody writes again."""


def to_frame(tensor: torch.Tensor) -> tuple[TensorFrame, Buffer]:
    """What describes a tensor, and its bytes."""
    flat = tensor.detach().contiguous().cpu()
    raw = flat.view(-1).view(torch.uint8).numpy() if flat.numel() else np.empty(0, np.uint8)
    frame = raw.tobytes() if raw.nbytes < COPIED_BELOW else memoryview(raw.data)
    return TensorFrame(WIRE_DTYPES[tensor.dtype], tuple(tensor.shape)), frame


def from_frame(described: TensorFrame, frame: Buffer, device: torch.device) -> torch.Tensor:
    """The tensor in a frame whose size was checked (`check_payload`), in aligned memory of its own."""
    flat = torch.empty(len(frame), dtype=torch.uint8)
    flat.numpy()[:] = np.frombuffer(frame, dtype=np.uint8)
    return flat.view(TORCH_DTYPES[described.dtype]).view(described.shape).to(device)
