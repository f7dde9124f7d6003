"""Child process: describes the model in a Hugging Face folder, by transformers.

Imports torch once it works; run only as a child.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from app.children.work import JobProgress, ProgressCallback, serve_job
from app.errors import ModelError
from app.models.checkpoint import TOKENIZER, Checkpoint, read_checkpoint
from app.models.description import ModelDescription, PartSource, Source, TensorSource, part_order
from app.models.part_bytes import part_bytes
from app.models.tokenizer_files import tokenizer_source, tokens_outside
from worker_agent.wire.messages import PartKind

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from worker_agent.model.anatomy import Anatomy

COMPUTE_DTYPES = {"F32": "float32", "F64": "float32", "BF16": "bfloat16", "F16": "float16"}


class InspectRequest(Struct, frozen=True):
    name: str
    folder: str
    source: Source
    origin: str
    tokenizer_target: str = ""
    """Where a tokenizer.json that has to be made of other files is kept; empty when nobody keeps it."""


def inspect(request: InspectRequest, report: ProgressCallback) -> ModelDescription:
    """Describe the model in a folder.

    Raises:
        BadInput: there is no such folder.
        ModelError: it cannot be used, and why.
    """
    checkpoint = read_checkpoint(Path(request.folder))
    report(JobProgress("inspecting", 0, 0))
    # Only now: importing torch takes seconds, and most that can be wrong is known without it.
    from worker_agent.model.imports import import_transformers

    import_transformers()
    from worker_agent.model.anatomy import OUTLINE_DTYPE, assign, build_empty, examine
    from worker_agent.wire.errors import CannotSplit

    try:
        model = build_empty(checkpoint.config, OUTLINE_DTYPE)
        anatomy = examine(model)
        ends = settle_ends(checkpoint, model, anatomy)
        if ends.config is not None:
            model = build_empty(ends.config, OUTLINE_DTYPE)
            anatomy = examine(model)
        tensors = tuple(tensor for tensor in checkpoint.tensors if tensor.name not in ends.doubled)
        assigned = assign(model, anatomy, [tensor.name for tensor in tensors])
    except CannotSplit as error:
        raise ModelError(f"The model in {checkpoint.folder} cannot be used: {error}.") from error
    rows = _rows(model, anatomy.vocab_size)
    unused = check_fit(checkpoint, model, tensors)
    tokenizer = settle_tokenizer(checkpoint.folder, request.tokenizer_target, rows, made=request.source == "gguf")
    parts = _parts(tensors, assigned)
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
        kv_vectors=anatomy.kv_vectors,
        kv_besides=anatomy.kv_besides,
        state_elements=anatomy.state_elements if any(anatomy.state_elements) else (),
        state_bytes=anatomy.state_bytes if any(anatomy.state_bytes) else (),
        cuts=anatomy.cuts,
        cut_notes=anatomy.cut_notes,
        batched=anatomy.batched,
        needs_token_ids=getattr(anatomy, "needs_token_ids", False),
        has_tokenizer=tokenizer.found,
        tokenizer_folder=tokenizer.folder,
        config="" if ends.config is None else ends.config.decode(),
        notes=(*checkpoint.notes, *ends.notes, *unused, *tokenizer.notes),
        parts=parts,
        files=checkpoint.files,
    )


@dataclass(frozen=True)
class Ends:
    """What the files say about embedding and head, which may be one tensor or two."""

    config: bytes | None = None
    """What config.json has to say instead; None when it is right."""
    doubled: frozenset[str] = frozenset()
    """Tensors that the files hold once more under another name."""
    notes: tuple[str, ...] = ()


def settle_ends(checkpoint: Checkpoint, model: PreTrainedModel, anatomy: Anatomy) -> Ends:
    """The files decide whether embedding and head are one: two unlike tensors are two, one alone serves both ends.

    The first is what transformers does when it loads (`PreTrainedModel.tie_weights`); where it would make up the
    missing end at random, the one that is there is taken. Raises CannotSplit; ModelError for a model that was made to
    have no head.
    """
    from worker_agent.model.anatomy import config_with_ties, end_pairs, parameter_names

    tensors = {tensor.name: tensor for tensor in checkpoint.tensors}
    held = {target: tensors[name] for name, target in parameter_names(model, tensors).items()}
    doubled: set[str] = set()
    for head, embedding in end_pairs(model, anatomy):
        tied = any({head, embedding} == set(pair) for pair in anatomy.tied)
        if head in held and embedding in held and tied:
            if not same_bytes(checkpoint.folder, held[head], held[embedding]):
                return Ends(
                    config_with_ties(checkpoint.config, tied=False),
                    notes=(
                        "config.json says that the head is the embedding (tie_word_embeddings), but the files hold "
                        f"another one, '{held[head].name}'; it is used.",
                    ),
                )
            doubled.add(held[head].name)
        elif (head in held) != (embedding in held) and not tied:
            there = held[head if head in held else embedding]
            if embedding in held and _has_no_head(checkpoint.config, there.name, embedding):
                raise ModelError(
                    f"The model in {checkpoint.folder} has no head: it makes embeddings and writes no text.",
                    "Use a model for text generation: one whose config.json names a class …ForCausalLM.",
                )
            return Ends(
                config_with_ties(checkpoint.config, tied=True),
                notes=(
                    "config.json says that embedding and head are two (tie_word_embeddings), but the files hold "
                    f"'{there.name}' alone; it is used for both.",
                ),
            )
    return Ends(doubled=frozenset(doubled))


def _has_no_head(config: bytes, name: str, embedding: str) -> bool:
    """Whether a model without a head was made to have none: its class is none that writes text, or, where config.json
    names no class, its embedding has the name that it has in a model that was saved without what stands around it.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    named = msgspec.json.decode(config).get("architectures")
    if isinstance(named, list) and named:
        writers = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
        # What is not known there may be a text model inside of another one.
        return all(isinstance(each, str) and each not in writers and "For" not in each for each in named)
    return name != embedding


def same_bytes(folder: Path, one: TensorSource, other: TensorSource) -> bool:
    """Whether two tensors of a model's files are the same to the last bit. Raises ModelError."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    pieces = zip(*(part_bytes(folder, PartSource("tied", 0, (tensor,))) for tensor in (one, other)), strict=True)
    return all(first == second for first, second in pieces)


def check_fit(checkpoint: Checkpoint, model: PreTrainedModel, tensors: Sequence[TensorSource]) -> tuple[str, ...]:
    """Make sure that the files fill the model that config.json builds. Returns what a user should know.

    Raises:
        ModelError: tensors are missing, or have other shapes than the config says.
    """
    from app.models.rehearsal import extents_in_words, rehearse

    config = model.config.get_text_config(decoder=True)
    fit = rehearse(model, tensors)
    if fit.misfits:
        misfit, more = fit.misfits[0], len(fit.misfits) - 1
        fields = extents_in_words(config, misfit)
        raise ModelError(
            f"The weights in {checkpoint.folder} do not fit its config.json: '{misfit.parameter}' is "
            f"{_shape(misfit.brought)} in the files and {_shape(misfit.wanted)} by the config"
            + (f" ({fields})" if fields else "")
            + (f"; {more} more tensors do not fit either." if more else "."),
            "config.json and weights are not of the same model: get both from one place, or correct config.json.",
        )
    if fit.errors:
        raise ModelError(
            f"The weights in {checkpoint.folder} do not fit its config.json: {len(fit.errors)} parameters cannot be "
            f"made of the files' tensors, such as {fit.errors[0]}.",
            "config.json and weights are not of the same model: get both from one place.",
        )
    if fit.missing:
        raise ModelError(
            f"The weights in {checkpoint.folder} are not complete: {len(fit.missing)} tensors are missing, "
            f"such as '{fit.missing[0]}'.",
            "Check that all files are there and belong to this config.json.",
        )
    if not fit.unused:
        return ()
    others = f" and {len(fit.unused) - 1} more" if len(fit.unused) > 1 else ""
    return (f"The files hold what has no place in the model: '{fit.unused[0]}'{others}.",)


@dataclass(frozen=True)
class TokenizerFound:
    """Whether there is a tokenizer, and where."""

    found: bool
    folder: str = ""
    """Where one that was made of other files lies; empty for the model's own folder, and when nobody keeps it."""
    notes: tuple[str, ...] = ()


def settle_tokenizer(folder: Path, target: str, rows: int, *, made: bool = False) -> TokenizerFound:
    """Find the tokenizer of a model with `rows` rows of embedding; make a tokenizer.json where there is none, or where
    transformers makes another tokenizer of it than it says.

    Args:
        made: whether the tokenizer.json was made here of what says all: it is kept as it is.
    """
    has_one = tokenizer_source(folder) is None
    if has_one and not (folder / TOKENIZER).is_file():
        return TokenizerFound(False)
    if has_one and made:
        return _looked_at(folder, "", rows)
    from app.models.tokenizer_conversion import convert_tokenizer, tokenizer_as_made

    with TemporaryDirectory() as scratch:
        place = Path(target or scratch)
        if has_one:
            try:
                another = tokenizer_as_made(folder, place)
            except ModelError as error:
                return TokenizerFound(False, notes=(error.message,))
            return _looked_at(place, target, rows) if another else _looked_at(folder, "", rows)
        why = convert_tokenizer(folder, place)
        return TokenizerFound(False, notes=(why,)) if why else _looked_at(place, target, rows)


def _looked_at(folder: Path, kept: str, rows: int) -> TokenizerFound:
    try:
        outside = tokens_outside(folder, rows)
    except ModelError as error:
        return TokenizerFound(False, notes=(error.message,))
    if not outside:
        return TokenizerFound(True, kept)
    named = ", ".join(f"{text} ({index})" for index, text in outside[:3])
    more = f" and {len(outside) - 3} more" if len(outside) > 3 else ""
    note = (
        f"The model's vocabulary ends at {rows - 1:,}, and the tokenizer goes beyond: {named}{more}. A text that needs "
        "such a token is refused."
    )
    return TokenizerFound(True, kept, (note,))


def _rows(model: PreTrainedModel, vocab_size: int) -> int:
    """How many tokens the embedding has a row for."""
    embedding = model.get_input_embeddings()
    weight = getattr(embedding, "weight", None)
    return int(weight.shape[0]) if weight is not None and weight.dim() == 2 else vocab_size


def _shape(extents: tuple[int, ...]) -> str:
    return " × ".join(map(str, extents)) or "a single number"


def _parts(tensors: Sequence[TensorSource], assigned: dict[str, tuple[PartKind, int]]) -> tuple[PartSource, ...]:
    """Tensors by part, in each part in the order of their bytes, so that reading goes forward."""
    groups: dict[tuple[PartKind, int], list[TensorSource]] = {}
    for tensor in tensors:
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
