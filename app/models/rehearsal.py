"""How the tensors of a model's files fit the model that its config builds. Needs torch and transformers: child
processes only.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils import logging

from app.models.description import TensorSource
from worker_agent.wire.messages.parts import BLOCK_FORMATS, FLOATING


@dataclass(frozen=True)
class Misfit:
    """A parameter for which the files bring another shape than the config gives it."""

    parameter: str
    brought: tuple[int, ...]
    wanted: tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """What came of putting a model's files into it."""

    missing: tuple[str, ...]
    """Parameters that no tensor fills; a tied one counts as filled when the one it is tied to is."""
    misfits: tuple[Misfit, ...]
    unused: tuple[str, ...]
    """Tensors that the model has no place for, and that its class does not expect to be left over."""
    errors: tuple[str, ...]
    """Parameters that could not be made of the tensors they are made of, and why."""


def rehearse(model: PreTrainedModel, tensors: Iterable[TensorSource]) -> Fit:
    """Load an empty model with tensors that have a shape and no content: transformers' own loading, renaming and
    fusing included, so that what does not fit here will not fit there either.

    The model is not to be used afterwards.
    """
    # Of experts whose tensors are [experts, inputs, outputs] blocks lie along the inputs all the same.
    turned = {path for path, module in model.named_modules() if getattr(module, "is_transposed", False)}
    state = {tensor.name: _outline(tensor, tensor.name.rpartition(".")[0] in turned) for tensor in tensors}
    settings = LoadStateDictConfig(
        dtype=torch.float32,
        device_map={"": torch.device("meta")},
        weight_mapping=get_model_conversion_mapping(model),  # type: ignore[arg-type]  # its two kinds, loosely typed
    )
    logging.disable_progress_bar()
    tied = model.all_tied_weights_keys
    info, _ = convert_and_load_state_dict_in_model(model, state, settings)
    errors = {str(name): str(why) for name, why in info.conversion_errors.items()}
    misfits = sorted((str(name), tuple(brought), tuple(wanted)) for name, brought, wanted in info.mismatched_keys)
    missing = set(info.missing_keys) - set(errors)
    for target, source in tied.items():
        if target not in missing or source not in missing:
            missing -= {target, source}
    return Fit(
        missing=tuple(sorted(_unexpected(missing, model._keys_to_ignore_on_load_missing))),
        misfits=tuple(Misfit(*misfit) for misfit in misfits),
        unused=tuple(sorted(_unexpected(info.unexpected_keys, model._keys_to_ignore_on_load_unexpected))),
        errors=tuple(f"{name} ({_first_line(why)})" for name, why in sorted(errors.items())),
    )


def extents_in_words(config: PreTrainedConfig, misfit: Misfit) -> str:
    """Which fields of the config have the extents that the files contradict: 'vocab_size 390'; empty when none has."""
    extents = misfit.wanted
    if len(misfit.brought) == len(misfit.wanted):
        extents = tuple(
            wanted for brought, wanted in zip(misfit.brought, misfit.wanted, strict=True) if brought != wanted
        )
    fields = config.to_dict()
    known = [name for name in _EXTENTS if fields.get(name) in extents]
    return " and ".join(f"{name} {fields[name]}" for name in known)


_EXTENTS = (
    "vocab_size",
    "hidden_size",
    "n_embd",
    "d_model",
    "intermediate_size",
    "n_inner",
    "ffn_dim",
    "moe_intermediate_size",
    "num_local_experts",
    "num_experts",
    "n_routed_experts",
    "head_dim",
    "max_position_embeddings",
    "n_positions",
)
"""Fields of configs that give a matrix its size."""


def _outline(tensor: TensorSource, turned: bool) -> torch.Tensor:
    dtype = torch.float32 if tensor.dtype in FLOATING or tensor.dtype in BLOCK_FORMATS else torch.int64
    whole = torch.empty(tensor.shape, dtype=dtype, device="meta")
    return whole.transpose(1, 2) if turned and tensor.dtype in BLOCK_FORMATS and whole.ndim == 3 else whole


def _unexpected(names: Iterable[str], expected: Iterable[str] | None) -> Iterator[str]:
    patterns = [re.compile(pattern) for pattern in expected or ()]
    return (name for name in names if not any(pattern.search(name) for pattern in patterns))


def _first_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:200] if lines else "no reason given"
