"""Traces and API keys in the registry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from app.errors import RegistryError
from app.registry import Registry


def test_a_trace_replaces_the_one_before_it(registry: Registry) -> None:
    registry.traces.put("request", "1", b"first")
    registry.traces.put("request", "1", b"second")
    registry.traces.put("job", "1", b"\x00\xff")
    assert registry.traces.get("request", "1") == b"second"
    assert registry.traces.get("job", "1") == b"\x00\xff"
    assert registry.traces.get("deployment", "1") is None
    assert (registry.traces.count(), registry.traces.total_bytes()) == (2, 8)
    assert registry.traces.remove("job", "1") and not registry.traces.remove("job", "1")


def test_traces_are_pruned_by_age_and_by_size_the_oldest_first(registry: Registry) -> None:
    for number in range(10):
        registry.traces.put("request", str(number), bytes(100))
    assert registry.traces.prune(datetime.now(UTC) - timedelta(hours=1)) == 0
    assert registry.traces.prune_to(350) == 7
    assert [registry.traces.get("request", str(n)) is not None for n in range(10)] == [False] * 7 + [True] * 3
    assert registry.traces.prune_to(350) == 0
    assert registry.traces.prune(datetime.now(UTC) + timedelta(hours=1)) == 3


def test_a_key_is_known_by_its_digest(registry: Registry) -> None:
    registry.api_keys.add(name="laptop", digest="ab" * 32, hint="x7Qz")
    with pytest.raises(RegistryError, match="'laptop' already"):
        registry.api_keys.add(name="laptop", digest="cd" * 32, hint="1234")
    (key,) = registry.api_keys.list()
    assert (key.name, key.digest, key.hint, key.last_used_at) == ("laptop", "ab" * 32, "x7Qz", None)
    registry.api_keys.touch("laptop")
    registry.api_keys.touch("gone")
    assert registry.api_keys.list()[0].last_used_at is not None
    assert registry.api_keys.remove("laptop").name == "laptop"
    with pytest.raises(RegistryError, match="no API key 'laptop'"):
        registry.api_keys.remove("laptop")
