"""What one watched run of an empty model tells: where it may be cut, and how it must be run."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import Cache, LlamaConfig, LlamaForCausalLM
from transformers.masking_utils import (
    bidirectional_mask_function,
    causal_mask_function,
    chunked_causal_mask_function,
    sliding_window_causal_mask_function,
)

from tests.worker_agent.causal_types import LAYERS, tiny_config
from worker_agent.model.anatomy import (
    REMEMBERED,
    Anatomy,
    build_empty,
    examine,
    examine_once,
    find_layers,
    read_config,
)
from worker_agent.model.outlined_attention import is_window
from worker_agent.model.probe import observe
from worker_agent.wire.errors import CannotSplit

EVERYWHERE = tuple(range(1, LAYERS))


def examined(model_type: str, **changes: object) -> Anatomy:
    config = tiny_config(model_type)
    for name, value in changes.items():
        setattr(config, name, value)
    return examine(build_empty(config))


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "mixtral", "gpt_oss"])
def test_layers_that_see_what_positions_say_share_steps_and_are_cut_anywhere(model_type: str) -> None:
    anatomy = examined(model_type)
    assert anatomy.batched
    assert anatomy.cuts == EVERYWHERE


@pytest.mark.parametrize(
    ("model_type", "why"),
    [
        ("phimoe", "its window is in the mask alone"),
        ("moshi", "its window is in the cache alone"),
        ("llama4_text", "a chunk of attention is no window"),
        ("doge", "its mask is made from numbers"),
        ("jamba", "a state is no row of keys and values"),
        ("zaya", "there is a state beside keys and values"),
        ("dory", "its layers run several times in a pass"),
    ],
)
def test_a_layer_that_minds_more_than_positions_keeps_sequences_apart(model_type: str, why: str) -> None:
    assert not examined(model_type).batched, why


def test_a_mask_is_told_from_the_window_that_attention_is_told_of() -> None:
    sliding = sliding_window_causal_mask_function(8)
    chunked = chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.long))
    assert is_window(causal_mask_function, None) and is_window(sliding, 8)
    assert [is_window(sliding, window) for window in (None, 7, 9)] == [False] * 3
    assert [is_window(causal_mask_function, 8), is_window(bidirectional_mask_function, None)] == [False] * 2
    assert [is_window(chunked, window) for window in (None, 8)] == [False] * 2
    unknown = chunked_causal_mask_function(8, torch.zeros(1, dtype=torch.long, device="meta"))
    assert is_window(unknown, 8) is None, "it depends on numbers"


@pytest.mark.parametrize(
    ("model_type", "says"),
    [
        ("inkling2_text", "token ids"),
        ("roformer", "token ids"),
        ("deepseek_v4", "one vector"),
        ("gemma3n_text", "one vector"),
        ("zaya", "more than the hidden states"),
    ],
)
def test_no_cut_where_more_passes_than_the_hidden_states(model_type: str, says: str) -> None:
    anatomy = examined(model_type)
    assert says in " ".join(anatomy.cut_notes)
    assert len(anatomy.cuts) < LAYERS - 1


def test_layers_may_be_cut_behind_the_last_that_reads_the_token_ids() -> None:
    model = build_empty(tiny_config("llama"))
    shelf = dict[str, torch.Tensor]()
    model.model.embed_tokens.register_forward_hook(lambda _module, _args, output: shelf.update(kept=output))
    model.model.layers[2] = Skipping(model.model.layers[2], shelf, False)
    anatomy = examine(model)
    assert anatomy.cuts == (3, 4, 5, 6)
    assert "token ids" in " ".join(anatomy.cut_notes)


def test_layers_that_share_weights_are_refused() -> None:
    with pytest.raises(CannotSplit, match="layers 1 and 4 of 'zamba' share weights"):
        examined("zamba")


def test_layers_that_run_several_times_stay_together() -> None:
    # Layers 2 to 4 of dory's tiny model are a loop, which is given what came out of layer 1 each time.
    anatomy = examined("dory")
    assert anatomy.cuts == (1, 6)
    assert anatomy.kv_elements[3] == 2 * anatomy.kv_elements[0], "each time it keeps keys and values of its own"


@pytest.mark.parametrize("model_type", ["openai-gpt", "rwkv", "xlnet"])
def test_a_model_without_a_cache_is_refused(model_type: str) -> None:
    with pytest.raises(CannotSplit, match="keeps nothing of earlier tokens in a cache"):
        examined(model_type)


def test_a_model_that_keeps_its_state_in_its_modules_is_refused_and_left_as_it_was() -> None:
    model = build_empty(tiny_config("recurrent_gemma"))
    before = {name: dict(vars(module)) for name, module in model.named_modules()}
    with pytest.raises(
        CannotSplit, match=r"keeps what it knows of earlier tokens in its modules .* sequences would mix"
    ):
        examine(model)
    for name, module in model.named_modules():
        assert {key: id(value) for key, value in vars(module).items()} == {
            key: id(value) for key, value in before[name].items()
        }, name


@pytest.mark.parametrize("model_type", ["cpmant", "prophetnet"])
def test_a_model_whose_layers_get_more_vectors_than_there_are_tokens_is_refused(model_type: str) -> None:
    with pytest.raises(CannotSplit, match=r"is given \d+ vectors for \d+ tokens, .* choose another architecture"):
        examined(model_type)


def test_a_cache_that_forgets_what_the_mask_shows_is_refused_where_that_can_happen() -> None:
    with pytest.raises(CannotSplit, match=r"its cache keeps the last 8, .* correct sliding_window .*at least 512,"):
        examined("moshi", sliding_window=8)
    assert examined("moshi", sliding_window=512).cuts == EVERYWHERE, "no text is longer than the window"


def test_a_model_that_sees_what_comes_later_is_refused() -> None:
    with pytest.raises(CannotSplit, match="looks at tokens that come later"):
        examined("bert", is_decoder=False)


def test_what_the_config_says_of_decoders_does_not_count_where_attention_is_causal() -> None:
    assert tiny_config("gpt_neox").is_decoder is False
    assert examined("gpt_neox").batched


def test_numbers_that_json_does_not_know_are_read() -> None:
    text = tiny_config("mamba2").to_json_string(use_diff=False)
    assert "__float__" in text, "transformers writes infinity so"
    assert read_config(text.encode()).time_step_limit[1] == float("inf")


def test_the_cache_is_handed_over_under_the_name_that_the_model_heeds() -> None:
    assert examined("mamba").cache_argument == examined("llama").cache_argument == "cache"


class Renamed(LlamaForCausalLM):
    """Takes its cache under a name that nobody has heard of; under the known one it takes what it does not heed."""

    def forward(
        self, input_ids: torch.Tensor, *, position_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        cache: object = None, kv_memory: Cache | None = None, use_cache: bool = True,
    ) -> object:  # fmt: skip
        return super().forward(input_ids, attention_mask, position_ids, cache=kv_memory, use_cache=use_cache)


class Strict(LlamaForCausalLM):
    """Does not know any other name for its cache than a new one."""

    def forward(
        self, input_ids: torch.Tensor, *, position_ids: torch.Tensor, attention_mask: torch.Tensor | None = None,
        kv_memory: Cache | None = None, use_cache: bool = True,
    ) -> object:  # fmt: skip
        return super().forward(input_ids, attention_mask, position_ids, cache=kv_memory, use_cache=use_cache)


@pytest.mark.parametrize("model_class", [Renamed, Strict])
def test_a_new_name_for_the_cache_is_found_by_what_the_model_does_with_it(model_class: type[LlamaForCausalLM]) -> None:
    with torch.device("meta"):
        model = model_class(tiny_config("llama")).eval()
    anatomy = examine(model)
    assert anatomy.cache_argument == "kv_memory"
    assert anatomy.kv_elements == examined("llama").kv_elements
    assert anatomy.batched and anatomy.cuts == EVERYWHERE


class Skipping(nn.Module):
    """A layer that gives the one after it more than its hidden states, by a way of its own."""

    def __init__(self, inner: nn.Module, shelf: dict[str, torch.Tensor], keeps: bool) -> None:
        super().__init__()
        self.inner, self.shelf, self.keeps = inner, shelf, keeps

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        output: torch.Tensor = self.inner(hidden_states, **kwargs)
        if self.keeps:
            self.shelf["kept"] = output * 2
            return output
        return output + self.shelf["kept"]


def test_what_one_layer_leaves_for_another_is_seen_whatever_way_it_goes() -> None:
    model = build_empty(tiny_config("llama"))
    layers, shelf = model.model.layers, dict[str, torch.Tensor]()
    layers[2], layers[4] = Skipping(layers[2], shelf, True), Skipping(layers[4], shelf, False)
    assert observe(model, find_layers(model)).flows == {(2, 4)}


class Doubled(nn.Module):
    """A layer that is called through a method of its own, which changes the hidden states first."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def __call__(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        output: torch.Tensor = super().__call__(hidden_states * 2, **kwargs)
        return output

    def forward(self, hidden_states: torch.Tensor, **kwargs: object) -> torch.Tensor:
        output: torch.Tensor = self.inner(hidden_states, **kwargs)
        return output


def test_hidden_states_that_are_changed_between_two_layers_are_seen() -> None:
    model = build_empty(tiny_config("llama"))
    model.model.layers[3] = Doubled(model.model.layers[3])
    assert observe(model, find_layers(model)).joints == {3}
    assert 3 not in examine(model).cuts


def test_what_was_seen_of_a_model_is_remembered_by_config_and_type_and_of_the_latest_few_alone() -> None:
    def once(layers: int, dtype: torch.dtype = torch.float32) -> Anatomy:
        config = LlamaConfig(
            vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=layers, num_attention_heads=2
        ).to_json_string()
        model = build_empty(config.encode(), dtype)
        seen = examine_once(model, config.encode(), dtype)
        assert seen == examine(model)
        return seen

    first = once(2)
    assert once(2) is first
    assert once(2, torch.bfloat16) is not first
    assert [once(layers).num_layers for layers in range(3, 3 + REMEMBERED)] == [*range(3, 3 + REMEMBERED)]
    assert once(2) is not first


def test_a_model_that_makes_itself_another_one_is_examined_whenever_it_is_built() -> None:
    config = tiny_config("big_bird").to_json_string(use_diff=False).encode()
    kinds = []
    for _ in range(2):
        model = build_empty(config)
        assert examine_once(model, config, torch.float32).num_layers == LAYERS
        kinds.append([type(module).__name__ for module in model.modules()])
    assert "BigBirdSelfAttention" in kinds[0] and kinds[0] == kinds[1]
