"""Child process: describes the model in a Hugging Face folder, by transformers.

Imports torch once it works; run only as a child.
"""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from app.errors import ModelError
from app.jobs import JobProgress, ProgressCallback, serve_job
from app.models.checkpoint import Checkpoint, read_checkpoint
from app.models.description import ModelDescription, PartSource, Source, TensorSource, part_order
from worker_agent.messages import PartKind

COMPUTE_DTYPES = {"F32": "float32", "F64": "float32", "BF16": "bfloat16", "F16": "float16"}


class InspectRequest(Struct, frozen=True):
    name: str
    folder: str
    source: Source
    origin: str


def inspect(request: InspectRequest, report: ProgressCallback) -> ModelDescription:
    """Describe the model in a folder.

    Raises:
        BadInput: there is no such folder.
        ModelError: it cannot be used, and why.
    """
    checkpoint = read_checkpoint(Path(request.folder))
    report(JobProgress("inspecting", 0, 0))
    # Only now: importing torch takes seconds, and most that can be wrong is known without it.
    from app.models.coverage import missing_parameters
    from worker_agent.anatomy import assign, build_empty, examine
    from worker_agent.errors import CannotSplit

    names = [tensor.name for tensor in checkpoint.tensors]
    try:
        model = build_empty(checkpoint.config)
        missing = missing_parameters(model, names)
        anatomy = examine(model)
        assigned = assign(model, anatomy, names)
    except CannotSplit as error:
        raise ModelError(f"The model in {checkpoint.folder} cannot be used: {error}.") from error
    if missing:
        raise ModelError(
            f"The weights in {checkpoint.folder} are not complete: {len(missing)} tensors are missing, "
            f"such as '{missing[0]}'.",
            "Check that all files are there and belong to this config.json.",
        )
    parts = _parts(checkpoint, assigned)
    used = [tensor for part in parts for tensor in part.tensors]
    return ModelDescription(
        name=request.name,
        folder=str(checkpoint.folder),
        source=request.source,
        origin=request.origin,
        architecture=anatomy.architecture,
        model_type=anatomy.model_type,
        num_layers=anatomy.num_layers,
        parameters=sum(_elements(tensor) for tensor in used),
        weight_bytes=sum(tensor.nbytes for tensor in used),
        dtype=_dtype(used),
        max_context=anatomy.max_context,
        hidden_size=anatomy.hidden_size,
        vocab_size=anatomy.vocab_size,
        kv_elements=anatomy.kv_elements,
        cuts=anatomy.cuts,
        cut_notes=anatomy.cut_notes,
        batched=anatomy.batched,
        needs_token_ids=getattr(anatomy, "needs_token_ids", False),
        has_tokenizer=checkpoint.has_tokenizer,
        parts=parts,
        files=checkpoint.files,
    )


def _parts(checkpoint: Checkpoint, assigned: dict[str, tuple[PartKind, int]]) -> tuple[PartSource, ...]:
    """Tensors by part, in each part in the order of their bytes, so that reading goes forward."""
    groups: dict[tuple[PartKind, int], list[TensorSource]] = {}
    for tensor in checkpoint.tensors:
        if tensor.name in assigned:
            groups.setdefault(assigned[tensor.name], []).append(tensor)
    ordered = sorted(groups, key=lambda key: part_order(*key))
    return tuple(PartSource(kind, index, tuple(groups[kind, index])) for kind, index in ordered)


def _elements(tensor: TensorSource) -> int:
    count = 1
    for extent in tensor.shape:
        count *= extent
    return count


def _dtype(tensors: list[TensorSource]) -> str:
    """The compute dtype that matches most of the stored bytes."""
    totals: dict[str, int] = {}
    for tensor in tensors:
        if tensor.dtype in COMPUTE_DTYPES:
            dtype = COMPUTE_DTYPES[tensor.dtype]
            totals[dtype] = totals.get(dtype, 0) + tensor.nbytes
    if not totals:
        raise ModelError("The model holds no floating point weights that could be computed with.")
    return max(totals, key=lambda dtype: totals[dtype])


if __name__ == "__main__":
    serve_job(InspectRequest, inspect)
