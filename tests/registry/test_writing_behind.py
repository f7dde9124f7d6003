"""Requests that are begun and saved without waiting for the disk, and writes that share a transaction."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest
from peewee import Database

from app.errors import DiskFullError, RegistryError
from app.registry import Registry, RequestStatus
from app.registry.fields import now
from app.registry.tables import WorkerNode


def begin(registry: Registry, prompt: str = "p") -> tuple[int, Future[None]]:
    record, written = registry.requests.begin(model_name="m", prompt=prompt, origin={"via": "http"})
    return record.id, written


def test_a_request_that_was_begun_is_there_when_it_is_written(registry: Registry) -> None:
    record, written = registry.requests.begin(model_name="m", prompt="p", parameters={"seed": 1}, origin={"user": "u"})
    written.result(10)
    assert registry.requests.get(record.id) == record
    assert registry.requests.add(model_name="m", prompt="q").id == record.id + 1


def test_numbers_go_on_where_they_ended(tmp_path: Path) -> None:
    with Registry.open(tmp_path / "r.sqlite3") as registry:
        first, _ = begin(registry)
        newest, _ = begin(registry)
    with Registry.open(tmp_path / "r.sqlite3") as registry:
        assert begin(registry)[0] == newest + 1 == first + 2


def test_what_is_saved_comes_with_its_trace_or_without_its_text(registry: Registry) -> None:
    record, _ = registry.requests.begin(model_name="m", prompt="secret", prompt_token_ids=(1, 2))
    over = replace(record, status=RequestStatus.COMPLETED, result="answer", token_ids=(3,), timings={"total": 1.0})
    registry.requests.save(over, trace=b"trace").result(10)
    assert registry.requests.get(record.id) == over
    assert registry.traces.get("request", str(record.id)) == b"trace"
    registry.requests.save(over, keep_text=False).result(10)
    kept = registry.requests.get(record.id)
    assert (kept.prompt, kept.result, kept.prompt_token_ids, kept.token_ids) == ("", "", (), ())
    assert kept.timings == {"total": 1.0}


def test_writes_that_wait_share_a_transaction_and_fail_alone(registry: Registry) -> None:
    """While one write holds the disk the others queue up; one of them fails, and only that one."""
    holding, go = threading.Event(), threading.Event()

    def hold(database: Database) -> None:
        holding.set()
        assert go.wait(10)

    store = registry._store
    first = store.write_later(hold, "node")
    assert holding.wait(10)
    seen: list[int] = []

    def refuse(database: Database) -> None:
        stamp = now()
        WorkerNode.insert(
            hostname="never", ip_address="10.0.0.9", port=1, public_key="k", agent_id="", is_active=False,
            draining=False, capacities={}, created_at=stamp, updated_at=stamp,
        ).execute(database)  # fmt: skip
        raise RegistryError("no")

    def look(database: Database) -> None:
        seen.append(registry.requests.count())  # by another connection: what is committed

    kept = [begin(registry, str(number)) for number in range(20)]
    refused = store.write_later(refuse, "node")
    store.write_later(look, "node")
    more = [begin(registry, str(number)) for number in range(20)]
    go.set()
    first.result(10)
    with pytest.raises(RegistryError, match="no"):
        refused.result(10)
    for id, written in (*kept, *more):
        written.result(10)
        assert registry.requests.get(id).prompt
    assert registry.nodes.list() == []
    assert seen == [0]  # of the twenty that were written before it in the same transaction


def test_a_full_disk_is_told_to_everyone_whose_write_was_lost(small_disk: Path) -> None:
    with Registry.open(small_disk / "r.sqlite3") as registry:
        outcomes = [begin(registry, "x" * 4_000_000)[1] for _ in range(30)]
        errors = [outcome.exception(30) for outcome in outcomes]
        assert errors[0] is None and isinstance(errors[-1], DiskFullError)
        written = sum(error is None for error in errors)
        assert registry.requests.count() == written
        assert all(error is None or isinstance(error, DiskFullError) for error in errors)
