"""Measured links are kept for as long as both nodes are there, the last few of each direction."""

from __future__ import annotations

import pytest

from app.errors import RegistryError
from app.registry import NodeRecord, Registry
from app.registry.links import KEPT


def two_nodes(registry: Registry) -> tuple[NodeRecord, NodeRecord]:
    one, other = (
        registry.nodes.add(hostname=name, ip_address="10.0.0.1", port=port, public_key=name)
        for name, port in (("alpha", 1), ("beta", 2))
    )
    return one, other


def test_what_was_measured_comes_back_as_it_was(registry: Registry) -> None:
    one, other = two_nodes(registry)
    added = registry.links.add(
        one.id, other.id, outcome="measured", rtt=0.012, least_rtt=0.01, jitter=0.001, clock_offset=-3.5,
        bytes_per_second=117e6, segment_bytes=1448,
    )  # fmt: skip
    assert registry.links.list() == [added]
    assert (added.source_id, added.target_id, added.rtt, added.clock_offset) == (one.id, other.id, 0.012, -3.5)
    assert added.is_measured
    failed = registry.links.add(other.id, one.id, outcome="silent", detail="timed out")
    assert registry.links.list() == [failed, added] and not failed.is_measured


def test_the_last_few_of_each_direction_stay(registry: Registry) -> None:
    one, other = two_nodes(registry)
    back = registry.links.add(other.id, one.id, outcome="measured", rtt=9.0)
    for number in range(KEPT + 3):
        registry.links.add(one.id, other.id, outcome="measured", rtt=float(number))
    kept = registry.links.list()
    assert [each.rtt for each in kept if each.source_id == one.id] == [float(n) for n in range(KEPT + 2, 2, -1)]
    assert back in kept


def test_links_go_with_either_of_their_nodes(registry: Registry) -> None:
    one, other = two_nodes(registry)
    for source, target in ((one, other), (other, one)):
        registry.links.add(source.id, target.id, outcome="measured")
    registry.nodes.remove(other.id)
    assert registry.links.list() == []
    with pytest.raises(RegistryError):
        registry.links.add(one.id, other.id, outcome="measured")
