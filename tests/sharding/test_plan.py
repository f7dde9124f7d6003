"""Dividing layers by bytes, and ranges as the user writes them."""

from __future__ import annotations

from itertools import combinations, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadInput
from app.models.description import ModelDescription
from app.sharding.plan import divide, parse_layers, ranges_text, stage_bytes
from tests.models.described import invented


@st.composite
def models(draw: st.DrawFn) -> ModelDescription:
    layers = draw(st.lists(st.integers(1, 50), min_size=1, max_size=9))
    cuts = [cut for cut in range(1, len(layers)) if draw(st.booleans())]
    ends = {kind: draw(st.integers(0, 80)) for kind in ("first", "last", "tied", "common")}
    return invented(layers, cuts=cuts, **ends)


@given(description=models(), data=st.data())
def test_no_other_division_has_a_smaller_largest_shard(description: ModelDescription, data: st.DataObject) -> None:
    shards = data.draw(st.integers(1, len(description.cuts) + 1))
    ranges = divide(description, shards)
    assert len(ranges) == shards
    assert [start for start, _ in ranges] == [0, *(end for _, end in ranges[:-1])]
    assert ranges[-1][1] == description.num_layers
    assert all(end in (*description.cuts, description.num_layers) for _, end in ranges)
    size = stage_bytes(description)
    every = (
        max(size(start, end) for start, end in pairwise((0, *chosen, description.num_layers)))
        for chosen in combinations(description.cuts, shards - 1)
    )
    assert max(size(start, end) for start, end in ranges) == min(every)


@given(description=models())
def test_a_shards_bytes_are_those_of_its_parts(description: ModelDescription) -> None:
    size = stage_bytes(description)
    for start in range(description.num_layers):
        for end in range(start + 1, description.num_layers + 1):
            assert size(start, end) == sum(part.nbytes for part in description.stage_parts(start, end))


@given(description=models(), data=st.data())
def test_a_division_survives_being_written_and_read(description: ModelDescription, data: st.DataObject) -> None:
    ranges = divide(description, data.draw(st.integers(1, len(description.cuts) + 1)))
    assert parse_layers(ranges_text(ranges), description) == ranges


def test_a_heavy_head_takes_layers_from_its_shard() -> None:
    assert divide(invented([10] * 8, last=40), 2) == ((0, 6), (6, 8))
    assert divide(invented([10] * 8), 2) == ((0, 4), (4, 8))


def test_equally_good_divisions_are_even() -> None:
    sizes = [end - start for start, end in divide(invented([10] * 7, first=100), 4)]
    assert sizes == [1, 2, 2, 2]


def test_more_shards_than_layers() -> None:
    with pytest.raises(BadInput, match="has 3 layers and can be cut into 3 shards at most, not 4"):
        divide(invented([1, 1, 1]), 4)


def test_more_shards_than_allowed_cuts_names_the_reason() -> None:
    description = invented([1, 1, 1], cuts=[2])
    with pytest.raises(BadInput, match="into 2 shards at most, not 3"):
        divide(description, 3)


@pytest.mark.parametrize("shards", [0, -1])
def test_no_shards(shards: int) -> None:
    with pytest.raises(BadInput, match="cannot be cut into"):
        divide(invented([1, 1]), shards)


@pytest.mark.parametrize(
    ("text", "ranges"),
    [("0-9", ((0, 10),)), ("0-3,4-9", ((0, 4), (4, 10))), (" 0 , 1 - 8 ,9", ((0, 1), (1, 9), (9, 10)))],
)
def test_ranges_are_inclusive(text: str, ranges: tuple[tuple[int, int], ...]) -> None:
    assert parse_layers(text, invented([1] * 10)) == ranges


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "'' is no range of layers"),
        ("a-b", "'a-b' is no range"),
        ("0-4;5-9", "is no range"),
        ("0-4,", "'' is no range"),
        ("-1-9", "is no range"),
        ("0-9999999", "is no range"),
        ("5-2,3-9", "The range 5-2 ends before it begins"),
        ("0-4,5-10", "The range 5-10 goes past the last layer"),
        ("1-9", "No range holds layer 0."),
        ("0-3,6-9", "No range holds the layers 4-5."),
        ("0-4,4-9", "The range 4-9 overlaps"),
        ("5-9,0-4", "No range holds the layers 0-4."),
        ("0-3,4-8", "No range holds layer 9."),
        ("0-6,7-9", "cannot be cut between layers 6 and 7"),
    ],
)
def test_ranges_that_do_not_fit_are_refused_with_the_reason(text: str, words: str) -> None:
    with pytest.raises(BadInput) as caught:
        parse_layers(text, invented([1] * 10, cuts=[1, 2, 3, 4, 5, 6, 9]))
    assert words in str(caught.value)
