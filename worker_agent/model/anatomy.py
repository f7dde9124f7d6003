"""What stands before, in and after the decoder layers of any transformers model.

No architecture is known by its name, and no weights are read: a model is built on torch's `meta` device and run
once there with every step watched (`probe.py`), which tells for each module whether it works before the layers, in
them or after them, how much a token puts into the KV cache, and whether anything but the hidden states flows from
layer to layer.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import nn
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key
from transformers.initialization import no_init_weights
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

from worker_agent.model.context_length import UNLIMITED, max_context_of
from worker_agent.model.probe import TOKENS, Observation, observe
from worker_agent.wire.errors import CannotSplit
from worker_agent.wire.messages import PartKind

NOT_CAUSAL = (
    "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
    "ForPreTraining", "ForImageClassification",
)  # fmt: skip
"""Endings of architecture names whose weights are no causal language model's."""

OUTLINE_DTYPE = torch.bfloat16
"""What to build a model in that is only examined: not float32, so that what keeps that dtype whatever the model
computes in is told from what follows it."""

REMEMBERED = 4
"""Models of which an agent that loads stages of them again need not find out anew how they are built."""
_examined: dict[tuple[bytes, torch.dtype], Anatomy] = {}


@dataclass(frozen=True)
class Anatomy:
    """How a model is built, as far as cutting and running it needs to know."""

    architecture: str
    model_type: str
    layers_path: str
    """Dotted name of the ModuleList of decoder layers."""
    num_layers: int
    before: tuple[tuple[str, tuple[int, ...]], ...]
    """Modules with weights of their own that work before the first layer; their output's shape after [1, tokens]."""
    after: tuple[str, ...]
    """Modules with weights of their own that work after the last layer."""
    cache_argument: str
    """The name under which the model takes its cache."""
    tuple_output: int
    """How many values a layer returns as a tuple that begins with the hidden states; 0: the hidden states alone."""
    tied: tuple[tuple[str, str], ...]
    """Pairs of parameter names that are one tensor, each standing at another end of the model."""
    kv_elements: tuple[int, ...]
    """Per layer: how many elements one token puts into the cache, keys, values and what else grows with the text."""
    kv_vectors: tuple[int, ...]
    """Per layer: in how many vectors keys and values of a token lie, one of each for each head."""
    kv_besides: tuple[int, ...]
    """Per layer: how many of a token's elements are neither keys nor values, but keys of an index for one."""
    state_elements: tuple[int, ...]
    """Per layer: how many elements a sequence keeps there however long it is, in the dtype that is computed in."""
    state_bytes: tuple[int, ...]
    """Per layer: how many bytes it keeps there besides, in a dtype of their own."""
    cuts: tuple[int, ...]
    """Boundaries b at which the model may be cut, between layer b - 1 and layer b."""
    cut_notes: tuple[str, ...]
    """Why it may not be cut elsewhere, a sentence each."""
    batched: bool
    """Whether sequences of unlike length may share a step."""
    hidden_size: int
    vocab_size: int
    max_context: int
    restarts_at: int | None = None
    """With so many tokens in its caches, a sequence is run anew from its first token before it goes on."""

    def owner(self, module_name: str) -> tuple[str, int]:
        """The part that a module or parameter of this name belongs to."""
        if module_name.startswith(self.layers_path + "."):
            return "layer", int(module_name[len(self.layers_path) + 1 :].split(".", 1)[0])
        for kind, names in (("first", [name for name, _ in self.before]), ("last", self.after)):
            if any(module_name == name or module_name.startswith(name + ".") for name in names):
                return kind, 0
        return "common", 0


def read_config(config: bytes) -> PreTrainedConfig:
    """A model's config.json as transformers' object.

    Raises:
        CannotSplit: not a causal language model that transformers itself knows.
    """
    try:
        fields: dict[str, Any] = json.loads(config, object_hook=_number)
        model_type = fields["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise CannotSplit("config.json is no JSON object with a model_type") from error
    if model_type not in CONFIG_MAPPING:
        remote = " and its own code (auto_map) is not run for safety" if fields.get("auto_map") else ""
        raise CannotSplit(f"the architecture '{model_type}' is not one that transformers knows{remote}")
    named = [name for name in fields.get("architectures") or [] if isinstance(name, str)]
    if fields.get("is_encoder_decoder"):
        raise CannotSplit(
            f"'{model_type}' is an encoder-decoder; only decoder-only language models can be run in stages"
        )
    if named and named[0].endswith(NOT_CAUSAL):
        raise CannotSplit(f"the weights are those of a {named[0]}, which is no causal language model")
    try:
        parsed: PreTrainedConfig = CONFIG_MAPPING[model_type].from_dict(fields)
    except Exception as error:
        # Each config checks itself in its own way, with errors of its own; all of them say what is wrong with it.
        raise CannotSplit(f"config.json of '{model_type}' cannot be read: {error}") from error
    if getattr(parsed, "is_encoder_decoder", False):
        raise CannotSplit(
            f"'{model_type}' is an encoder-decoder; only decoder-only language models can be run in stages"
        )
    if type(parsed) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise CannotSplit(f"transformers has no causal language model of type '{model_type}'")
    return parsed


def _number(fields: dict[str, Any]) -> Any:
    """What JSON has no number for, as transformers writes it: {"__float__": "Infinity"}."""
    return float(fields["__float__"]) if fields.keys() == {"__float__"} else fields


def build_empty(
    config: bytes | PreTrainedConfig, dtype: torch.dtype = torch.float32, attention: str = "eager"
) -> PreTrainedModel:
    """The whole model without weights: every parameter and buffer on the meta device.

    Raises:
        CannotSplit: see `read_config`, or transformers cannot build it.
    """
    parsed = read_config(config) if isinstance(config, bytes) else config
    if getattr(parsed, "quantization_config", None) is not None:
        raise CannotSplit("the weights are quantized in a way that cannot be cut yet; use the unquantized model")
    try:
        with torch.device("meta"), no_init_weights():
            model: PreTrainedModel = AutoModelForCausalLM.from_config(
                parsed, dtype=dtype, attn_implementation=attention
            )
        model.tie_weights(recompute_mapping=False)  # which is left out together with the initialization
    except (ImportError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise CannotSplit(f"transformers cannot build '{parsed.model_type}': {error}") from error
    model.eval()
    return model


def find_layers(model: PreTrainedModel) -> str:
    """Dotted name of the ModuleList that holds the decoder layers. Raises CannotSplit."""
    count = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", None)
    if not isinstance(count, int):
        raise CannotSplit(f"the config of '{model.config.model_type}' does not say how many decoder layers there are")
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count and _holds_weights(module)
    ]
    outermost = [name for name in found if not any(name.startswith(other + ".") for other in found)]
    language: list[str] = [name for name in outermost if "vision" not in name and "audio" not in name]
    # Models that can be either keep their layers in an "encoder" whichever they are.
    decoder = [name for name in language if "encoder" not in name] or language
    if len(decoder) != 1:
        lists = f"{len(decoder)} lists of modules have" if decoder else "no list of modules has"
        raise CannotSplit(
            f"cannot tell the decoder layers of '{model.config.model_type}' apart: {lists} the {count} entries that "
            "its config says"
        )
    return decoder[0]


def examine(model: PreTrainedModel) -> Anatomy:
    """How an empty model (`build_empty`) is built. Raises CannotSplit."""
    layers_path = find_layers(model)
    _refuse_shared_weights(model, layers_path)
    seen = observe(model, layers_path)
    if seen.looks_ahead:
        _looks_ahead(model)
    for name, attribute in seen.keepers.items():
        raise CannotSplit(
            f"'{model.config.model_type}' keeps what it knows of earlier tokens in its modules "
            f"('{attribute}' in layer module {name}), not in a cache, so that sequences would mix; "
            "choose another architecture"
        )
    config = model.config.get_text_config(decoder=True)
    max_context = max_context_of(config)
    _refuse_unlike_answers(model.config.model_type, seen, max_context)
    cuts, notes = _cuts(model, layers_path, seen)
    before = tuple((name, shape) for name, shape in seen.before.items() if name not in seen.after)
    after = tuple(name for name in seen.after if name not in seen.before)
    anatomy = Anatomy(
        architecture=type(model).__name__,
        model_type=model.config.model_type,
        layers_path=layers_path,
        num_layers=seen.num_layers,
        before=before,
        after=after,
        cache_argument=seen.cache_argument,
        tuple_output=seen.tuple_output,
        tied=(),
        kv_elements=seen.kv_elements,
        kv_vectors=seen.kv_vectors,
        kv_besides=seen.kv_besides,
        state_elements=tuple(seen.state_elements.get(layer, 0) for layer in range(seen.num_layers)),
        state_bytes=tuple(seen.state_bytes.get(layer, 0) for layer in range(seen.num_layers)),
        cuts=cuts,
        cut_notes=notes,
        batched=_is_batched(seen),
        hidden_size=config.hidden_size,
        vocab_size=config.vocab_size,
        max_context=max_context,
        restarts_at=_restarts_at(model, seen.cache_argument),
    )
    return Anatomy(**{**vars(anatomy), "tied": _across(anatomy, model.all_tied_weights_keys)})


def examine_once(model: PreTrainedModel, config: bytes, dtype: torch.dtype) -> Anatomy:
    """`examine` of the empty model that was built of these; of models looked at lately what was seen then.

    Watching every operation of a model takes longer than all else of loading a small stage. A model that makes itself
    another one when it is run for the first time (BigBird takes other attention) is examined whenever it is built.
    """
    seen = _examined.get((config, dtype))
    if seen is None:
        before = [type(module) for module in model.modules()]
        seen = examine(model)
        if before != [type(module) for module in model.modules()]:
            return seen
        if len(_examined) >= REMEMBERED:
            _examined.pop(next(iter(_examined)), None)
        _examined[config, dtype] = seen
    return seen


def assign(model: PreTrainedModel, anatomy: Anatomy, names: Iterable[str]) -> dict[str, tuple[PartKind, int]]:
    """Which part each tensor of the model's files belongs to; names that the model does not use are absent.

    Follows transformers' own renaming of checkpoint names, so that fused experts and the like end up
    where the loading code will look for them.
    """
    targets = parameter_names(model, names)
    held = set(targets.values())
    # What the files hold at both ends is two tensors, whatever the config says.
    tied = {name for pair in anatomy.tied if not held.issuperset(pair) for name in pair}
    parts: dict[str, tuple[PartKind, int]] = {}
    for name, target in targets.items():
        kind, index = ("tied", 0) if target in tied else anatomy.owner(target)
        parts[name] = (kind, index)  # type: ignore[assignment]  # owner() yields only PartKind's words
    return parts


def parameter_names(model: PreTrainedModel, names: Iterable[str]) -> dict[str, str]:
    """Names in the model's files -> names in the model, by transformers' own renaming; without those it does not use.

    Tensors that are fused or divided while loading have the name of the first of what they become.
    """
    conversions = get_model_conversion_mapping(model)
    renamings = [entry for entry in conversions if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in conversions if isinstance(entry, WeightConverter)]
    state = model.state_dict()
    targets: dict[str, str] = {}
    for name in names:
        target, _ = rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if target not in state and name in state:
            target = name
        if target in state:
            targets[name] = target
    return targets


def end_pairs(model: PreTrainedModel, anatomy: Anatomy) -> tuple[tuple[str, str], ...]:
    """Parameters of the model's two ends that its class can tie, whether its config ties them or not.

    Pairs of names: the head's, then the embedding's.
    """
    configs = {id(module.config): module.config for module in model.modules() if isinstance(module, PreTrainedModel)}
    said = [(config, vars(config).get("tie_word_embeddings")) for config in configs.values()]
    try:
        for config, _ in said:
            config.tie_word_embeddings = True
        pairs = model.get_expanded_tied_weights_keys(all_submodels=True)
    except ValueError:  # a pattern of the class that fits none of this model's parameters
        return anatomy.tied
    finally:
        for config, before in said:
            if before is None:
                vars(config).pop("tie_word_embeddings", None)
            else:
                config.tie_word_embeddings = before
    return _across(anatomy, pairs)


def config_with_ties(config: bytes, tied: bool) -> bytes:
    """A config.json that says whether embedding and head are one tensor, also where it describes the text model."""
    parsed = read_config(config)
    fields: dict[str, Any] = json.loads(config)
    fields["tie_word_embeddings"] = tied
    text = parsed.get_text_config(decoder=True)
    for name in parsed.sub_configs:
        nested = fields.get(name)
        if isinstance(nested, dict) and (getattr(parsed, name, None) is text or "tie_word_embeddings" in nested):
            nested["tie_word_embeddings"] = tied
    return json.dumps(fields, indent=2).encode()


def _across(anatomy: Anatomy, pairs: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Those pairs of which one stands before the layers and the other after them."""
    return tuple(
        (target, source)
        for target, source in pairs.items()
        if {anatomy.owner(target)[0], anatomy.owner(source)[0]} == {"first", "last"}
    )


class _FullCache(DynamicCache):
    """A cache that says that it holds so many tokens."""

    def __init__(self, length: int) -> None:
        super().__init__()
        self._length = length

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self._length

    def __bool__(self) -> bool:
        return True


def _restarts_at(model: PreTrainedModel, cache_argument: str) -> int | None:
    """With how many tokens in its cache transformers' `generate` drops the cache and begins anew, if it ever does.

    Phi-3 does, where a longer sequence gets other rotary frequencies for all of its positions. Seen by asking the model
    how it would go on at the lengths that its config tells of.
    """
    config = model.config.get_text_config(decoder=True)
    rope = getattr(config, "rope_parameters", None)
    kinds = [rope, *rope.values()] if isinstance(rope, dict) else []
    told = [each.get("original_max_position_embeddings") for each in kinds if isinstance(each, dict)]
    told.append(getattr(config, "original_max_position_embeddings", None))
    if _begins_anew(model, cache_argument, 1):
        return None  # it would at any length: this is no way to ask it
    lengths = sorted({each for each in told if isinstance(each, int) and 1 < each < UNLIMITED})
    return next((length for length in lengths if _begins_anew(model, cache_argument, length)), None)


def _begins_anew(model: PreTrainedModel, cache_argument: str, length: int) -> bool:
    tokens = torch.zeros(1, length + 1, dtype=torch.long)
    try:
        prepared: dict[str, Any] = model.prepare_inputs_for_generation(  # type: ignore[operator]  # a mixin's method
            tokens,
            **{cache_argument: _FullCache(length)},
            attention_mask=torch.ones_like(tokens),
            next_sequence_length=1,
            use_cache=True,
        )
        return prepared.get(cache_argument) is None and prepared["input_ids"].shape[1] == length + 1
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, NotImplementedError):
        return False  # it cannot be asked like this, and so does not mind the length either


def _looks_ahead(model: PreTrainedModel) -> NoReturn:
    raise CannotSplit(
        f"this '{model.config.model_type}' looks at tokens that come later, so it cannot continue a text; "
        "use the weights and config of a causal language model (is_decoder, for one)"
    )


def _refuse_unlike_answers(model_type: str, seen: Observation, max_context: int) -> None:
    """What gives something else for a text token by token than for the same text as a whole. Raises CannotSplit."""
    for layer, length in sorted(seen.lengths.items()):
        raise CannotSplit(
            f"layer {layer} of '{model_type}' is given {length} vectors for {TOKENS} tokens, so that a text cannot be "
            "continued token by token; choose another architecture"
        )
    for layer, kept in sorted(seen.forgotten.items()):
        if kept < max_context:
            raise CannotSplit(
                f"layer {layer} of '{model_type}' looks at all earlier tokens, but its cache keeps the last {kept:,}, "
                "so that a longer text would be continued as another one; correct sliding_window in config.json (at "
                f"least {max_context:,}, the model's context), or choose another model"
            )


def _refuse_shared_weights(model: PreTrainedModel, layers_path: str) -> None:
    """Layers are stored, sent and loaded one by one. Raises CannotSplit."""
    layers = model.get_submodule(layers_path)
    assert isinstance(layers, nn.ModuleList)
    owner: dict[int, int] = {}
    for index, layer in enumerate(layers):
        for parameter in layer.parameters():
            other = owner.setdefault(id(parameter), index)
            if other != index:
                raise CannotSplit(
                    f"layers {other} and {index} of '{model.config.model_type}' share weights, so that they cannot be "
                    "stored and loaded one by one; choose another architecture"
                )


def _is_batched(seen: Observation) -> bool:
    """Whether every layer's attention can do without a mask and with a cache of rows, as a ragged batch has it."""
    once = len(set(seen.order)) == len(seen.order) == seen.num_layers
    rows = seen.attended == seen.rows and len(seen.rows) == seen.num_layers and not seen.states
    return once and rows and all(seen.masks.values())


def _cuts(model: PreTrainedModel, layers_path: str, seen: Observation) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Where the model may be cut, and why not elsewhere."""
    allowed = set(range(1, seen.num_layers))
    notes: list[str] = []

    def forbid(first: int, last: int, why: str) -> None:
        """No cut between layer `first` and layer `last`."""
        if allowed & set(range(first + 1, last + 1)):
            allowed.difference_update(range(first + 1, last + 1))
            notes.append(f"no cut between layers {first} and {last}: {why}")

    config = model.config.get_text_config(decoder=True)
    shared = getattr(config, "num_kv_shared_layers", 0) or 0
    if shared:
        kinds = list(getattr(config, "layer_types", None) or ["full_attention"] * seen.num_layers)
        owners = kinds[: seen.num_layers - shared]
        sources = [len(owners) - 1 - owners[::-1].index(kind) for kind in set(kinds[-shared:]) if kind in owners]
        forbid(min(sources, default=0), seen.num_layers - 1, "the last layers use keys and values of an earlier one")
    for first, last in _spans(seen.wide):
        forbid(first - 1, last, "more than one vector of the hidden size passes between them")
    if seen.token_readers - {0}:
        forbid(0, max(seen.token_readers), "layers read the token ids besides the hidden states")
    for first, last in _spans({cut for cut in allowed if not _parts_the_pass(seen.order, cut)}):
        forbid(first - 1, last, "they do not run once each and in order")
    for first, last in sorted(seen.flows, key=lambda flow: flow[0] - flow[1]):
        forbid(min(first, last), max(first, last), "more than the hidden states passes between them")
    for first, last in _spans(seen.joints):
        forbid(first - 1, last, "the hidden states are changed between them")
    return tuple(sorted(allowed)), tuple(notes)


def _parts_the_pass(order: list[int], cut: int) -> bool:
    """Whether the pass, which runs layers in this order, goes over a cut once, from the layer before to that behind."""
    earlier = [layer for layer in order if layer < cut]
    return earlier == order[: len(earlier)] and order.count(cut) == order.count(cut - 1) == 1


def _spans(layers: set[int]) -> list[tuple[int, int]]:
    """Runs of neighbouring layers, each as its first and last; the first layer of all is nobody's neighbour."""
    spans: list[tuple[int, int]] = []
    for layer in sorted(layers - {0}):
        if spans and spans[-1][1] == layer - 1:
            spans[-1] = (spans[-1][0], layer)
        else:
            spans.append((layer, layer))
    return spans


def _holds_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None
