"""What was predicted beside what came is kept for as long as its nodes are there, the last few of each node."""

from __future__ import annotations

from dataclasses import replace

from app.registry import NewComparison, Registry
from app.registry.comparisons import KEPT
from tests.registry.test_links import two_nodes


def made(node: int, following: int | None, took: float = 0.02, dtype: str = "float32") -> NewComparison:
    return NewComparison(
        node_id=node, following_id=following, model_name="tiny", dtype=dtype, quantize="none", token_predicted=0.01,
        token_measured=took, prompt_predicted=0.1, prompt_measured=0.2, way_predicted=0.001, way_measured=0.002,
        read_bytes_per_second=1e10, flops_per_second=1e11, rtt=0.004,
    )  # fmt: skip


def test_a_comparison_comes_back_as_it_was_and_only_of_the_nodes_asked_for(registry: Registry) -> None:
    one, other = two_nodes(registry)
    registry.comparisons.keep([made(one.id, other.id), made(other.id, one.id)]).result()
    newest, first = registry.comparisons.list()
    fields = NewComparison.__dataclass_fields__
    assert NewComparison(**{name: getattr(first, name) for name in fields}) == made(one.id, other.id)
    assert newest.node_id == other.id
    assert registry.comparisons.list({one.id}) == [first]


def test_the_last_few_of_each_node_in_each_kind_of_numbers_stay(registry: Registry) -> None:
    one, other = two_nodes(registry)
    registry.comparisons.keep([made(one.id, other.id, dtype="bfloat16"), made(other.id, None)]).result()
    for number in range(KEPT + 3):
        registry.comparisons.keep([made(one.id, other.id, float(number + 1))]).result()
    kept = registry.comparisons.list({one.id}, dtype="float32", quantize="none")
    assert [each.token_measured for each in kept] == [float(n) for n in range(KEPT + 3, 3, -1)]
    assert len(registry.comparisons.list()) == KEPT + 2 and registry.comparisons.list(quantize="int4") == []


def test_comparisons_go_with_either_of_their_nodes_and_of_one_that_is_gone_nothing_is_kept(registry: Registry) -> None:
    one, other = two_nodes(registry)
    alone = made(one.id, None)
    registry.comparisons.keep([made(one.id, other.id), made(other.id, one.id), alone]).result()
    registry.nodes.remove(other.id)
    assert [each.following_id for each in registry.comparisons.list()] == [None]
    registry.comparisons.keep(
        [made(one.id, other.id), made(other.id, None), replace(alone, token_measured=9.0)]
    ).result()
    assert [each.token_measured for each in registry.comparisons.list()] == [9.0, 0.02]
