"""Which modules treat each token by itself is found by watching them."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from worker_agent.model.rowwise import find

LENGTHS = (9, 5)
WIDTH = 6


class Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 10), nn.Linear(10, WIDTH)

    def forward(self, rows: torch.Tensor, *, scale: float = 1.0) -> torch.Tensor:
        return scale * self.down(torch.relu(self.up(rows)))


class Mixture(nn.Module):
    """Gives its scores besides, and flattens its tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.gate, self.expert = nn.Linear(WIDTH, 2), nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        flat = rows.view(-1, WIDTH)
        scores = self.gate(flat).softmax(-1)
        return (self.expert(flat) * scores[:, :1]).view(rows.shape), scores


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.filter = nn.Conv1d(WIDTH, WIDTH, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.filter(nn.functional.pad(rows.transpose(1, 2), (2, 0))).transpose(1, 2)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.queries, self.output = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        queries = self.queries(rows)
        scores = queries @ rows.transpose(1, 2)
        return self.output(scores.tril().softmax(-1) @ rows)


class Placed(nn.Module):
    """Adds to each token what belongs to its place."""

    def __init__(self) -> None:
        super().__init__()
        self.places = nn.Parameter(torch.randn(32, WIDTH))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rows + self.places[: rows.shape[1]]


class Average(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(WIDTH))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.weight * rows / rows.std()


class Nothing(nn.Module):
    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(rows)


def found(module: nn.Module, **settings: object) -> list[nn.Module]:
    texts = [torch.randn(1, length, WIDTH, generator=torch.Generator().manual_seed(length)) for length in LENGTHS]
    runs = [(text.shape[1], partial(module, text, **settings)) for text in texts]
    return [each.module for each in find([module], runs, torch.float32)]


@pytest.mark.parametrize("kind", [Mlp, Mixture])
def test_what_treats_each_token_by_itself_is_taken_as_a_whole(kind: type[nn.Module]) -> None:
    module = kind()
    assert found(module) == [module]


def test_of_what_mixes_tokens_the_matrices_are_taken_in_the_order_in_which_they_run() -> None:
    module = Attention()
    assert found(module) == [module.queries, module.output]


@pytest.mark.parametrize("kind", [Convolution, Placed, Average, Nothing])
def test_what_minds_other_tokens_or_places_is_not_taken_nor_what_has_no_weights(kind: type[nn.Module]) -> None:
    assert found(kind()) == []


def test_what_is_handed_more_than_tensors_and_plain_values_is_looked_into() -> None:
    class Handed(Mlp):
        def forward(self, rows: torch.Tensor, *, cache: object = None) -> torch.Tensor:  # type: ignore[override]
            return super().forward(rows)

    module = Handed()
    assert found(module, cache=object()) == [module.up, module.down]
    assert found(Mlp(), scale=2.0) != []


def test_what_a_single_pass_has_hung_into_is_not_taken_with_what_stands_around_it() -> None:
    module = Mlp()
    module.down.register_forward_pre_hook(lambda _module, _given: None)
    assert found(module) == [module.up, module.down]


def test_texts_are_told_apart_by_their_lengths_alone() -> None:
    module = Mlp()
    runs = [(4, partial(module, torch.randn(1, 4, WIDTH)))] * 2
    assert find([module], runs, torch.float32) == []
