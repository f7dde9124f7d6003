"""Which parameters of a model its files do not bring. Needs torch and transformers: child processes only."""

from __future__ import annotations

import re
from collections.abc import Iterable

from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key


def missing_parameters(model: PreTrainedModel, names: Iterable[str]) -> tuple[str, ...]:
    """Parameters of an empty model that no tensor of these names fills, by transformers' own loading rules.

    A tied parameter counts as filled when the one it is tied to is.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: converter for converter in converters for pattern in converter.source_patterns}
    state = model.state_dict()
    filled: set[str] = set()
    for name in names:
        target, pattern = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        filled |= {target, name}
        if pattern is not None and len(by_pattern[pattern].target_patterns) > 1:
            # One tensor of the file becomes several of the model: take all of that converter's targets beside it.
            parent = target.rsplit(".", 2)[0]
            filled |= {other for other in state if other.startswith(parent + ".")}
    for target, source in model.all_tied_weights_keys.items():
        if source in filled or target in filled:
            filled |= {source, target}
    ignored = [re.compile(pattern) for pattern in model._keys_to_ignore_on_load_missing or ()]
    parameters = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    return tuple(
        name for name in parameters if name not in filled and not any(pattern.search(name) for pattern in ignored)
    )
