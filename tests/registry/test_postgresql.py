"""What only a server can do: restart connections, share a database, keep a lock by itself."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from app.errors import RegistryError
from app.registry import EventLevel, Registry

from .conftest import Server

OURS = "datname = current_database() AND pid <> pg_backend_pid()"


@pytest.fixture
def url(server: Server) -> Iterator[str]:
    with server.lent() as url:
        yield url


def name_of(url: str) -> str:
    return url.split("///")[1].split("?")[0]


def cut_connections(server: Server, url: str) -> None:
    database = name_of(url)
    server.query(database, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {OURS}")
    while server.query(database, f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}").strip() != "0":
        time.sleep(0.02)


def test_reading_goes_on_after_the_server_has_cut_the_connections(server: Server, url: str) -> None:
    with Registry.open(url) as registry:
        event = registry.events.add(EventLevel.INFO, "test", "before")
        assert registry.events.list() == [event]
        cut_connections(server, url)
        assert registry.events.list() == [event]


def test_a_write_on_a_cut_connection_fails_and_the_next_one_goes_through(server: Server, url: str) -> None:
    with Registry.open(url) as registry:
        cut_connections(server, url)
        # Whether it was committed cannot be known, so it is not tried again behind the caller's back.
        with pytest.raises(RegistryError, match="cannot be reached"):
            registry.events.add(EventLevel.INFO, "test", "lost")
        registry.events.add(EventLevel.INFO, "test", "kept")
        assert [event.message for event in registry.events.list()] == ["kept"]
        with pytest.raises(RegistryError, match=rf"in use by another Shardboard \(process {os.getpid()} on"):
            Registry.open(url)


def test_who_lost_the_lock_to_another_controller_writes_no_more(server: Server, url: str) -> None:
    with Registry.open(url) as first:
        cut_connections(server, url)
        with Registry.open(url) as second:
            for _ in range(2):
                with pytest.raises(RegistryError):
                    first.events.add(EventLevel.INFO, "first", "")
            second.events.add(EventLevel.INFO, "second", "")
            assert [event.source for event in second.events.list()] == ["second"]


def test_no_connection_is_left_after_closing(server: Server, url: str) -> None:
    with Registry.open(url) as registry:
        registry.nodes.list()
    deadline = time.monotonic() + 10
    while server.query(name_of(url), f"SELECT count(*) FROM pg_stat_activity WHERE {OURS}").strip() != "0":
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_database_with_other_programs_tables_is_shared_unless_a_name_is_taken(server: Server, url: str) -> None:
    server.query(name_of(url), "CREATE TABLE songs (title text)")
    with Registry.open(url) as registry:
        registry.nodes.add(hostname="alpha", ip_address="10.0.0.1", port=1, public_key="k")
    with server.lent() as taken:
        server.query(name_of(taken), "CREATE TABLE event (title text)")
        with pytest.raises(RegistryError, match="another program's database: it has the table 'event'"):
            Registry.open(taken)


def test_the_options_of_the_url_hold_for_readers_too(server: Server, url: str) -> None:
    server.query(name_of(url), "CREATE SCHEMA one")
    server.query(name_of(url), "CREATE SCHEMA two")
    one, two = (f"{url}&options=-csearch_path%3D{schema}" for schema in ("one", "two"))
    with Registry.open(one) as first, Registry.open(two) as second:
        first.events.add(EventLevel.INFO, "one", "")
        assert second.events.list() == []
        assert [event.source for event in first.events.list()] == ["one"]
