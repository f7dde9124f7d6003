"""What cannot be opened, what the user is told, and that it is left as it was."""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from app.errors import RegistryError
from app.registry import EventLevel, Registry
from app.registry.location import PostgresqlServer, locate

from .conftest import Server


def test_a_registry_is_made_with_the_folders_above_it_and_for_the_user_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "folder" / "registry.sqlite3"
    with Registry.open(file) as registry:
        assert registry.location == str(file)
        registry.events.add(EventLevel.INFO, "test", "")
        files = [path for path in file.parent.iterdir() if path.is_file()]
        assert file in files
        if os.name == "posix":
            assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_a_url_names_a_file_too(file: Path) -> None:
    with Registry.open(f"sqlite:///{file}") as registry:
        assert registry.location == str(file)


def test_the_database_is_as_safe_as_it_is_meant_to_be(file: Path) -> None:
    with Registry.open(file) as registry:

        def pragma(name: str) -> object:
            return registry._store.run(lambda database: getattr(database, name))

        # synchronous 2 is FULL: a commit is on the disk before it returns.
        assert [pragma(name) for name in ("journal_mode", "synchronous", "foreign_keys")] == ["wal", 2, 1]


@pytest.mark.parametrize(
    "content", [b"this is no database, but it is long enough to be looked at. " * 20, b"SQLite format 3\0"]
)
def test_a_file_that_is_no_database_is_refused_and_left_alone(file: Path, content: bytes) -> None:
    file.write_bytes(content)
    with pytest.raises(RegistryError, match="is damaged or is no registry") as raised:
        Registry.open(file)
    assert "backups" in raised.value.advice
    assert file.read_bytes() == content


def test_a_damaged_registry_is_told_as_such(file: Path) -> None:
    with Registry.open(file) as registry:
        for _ in range(50):
            registry.events.add(EventLevel.INFO, "test", "x" * 5000)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(RegistryError, match="is damaged"), Registry.open(file) as registry:
        registry.events.list(limit=1000)


def test_another_programs_database_is_refused_and_left_alone(file: Path) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("CREATE TABLE songs (title)")
        connection.commit()
    with pytest.raises(RegistryError, match="another program's database: it has the table 'songs'"):
        Registry.open(file)
    with closing(sqlite3.connect(file)) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("songs",)]


def test_an_empty_file_becomes_a_registry(file: Path) -> None:
    file.touch()
    with Registry.open(file) as registry:
        assert registry.nodes.list() == []


def test_a_folder_that_is_a_file_is_told_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RegistryError, match=r"registry\.sqlite3 cannot be written: ") as raised:
        Registry.open(tmp_path / "file" / "registry.sqlite3")
    assert "SHARDBOARD_HOME" in raised.value.advice


def test_a_folder_in_the_files_place_is_told_with_its_reason(file: Path) -> None:
    file.mkdir()
    with pytest.raises(RegistryError, match="cannot be written: "):
        Registry.open(file)


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that not even root may write to is known on Linux only")
def test_a_folder_that_cannot_be_written_is_told_with_its_reason() -> None:
    with pytest.raises(RegistryError, match="cannot be written: "):
        Registry.open("/proc/shardboard/registry.sqlite3")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not hold for this account")
def test_a_file_without_permission_is_told_with_its_reason(file: Path) -> None:
    Registry.open(file).close()
    file.chmod(0o400)
    with pytest.raises(RegistryError, match="cannot be written: Permission denied"):
        Registry.open(file)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        (":memory:", "in memory"),
        ("", "in memory"),
        ("mysql://host/shardboard", "cannot be kept at mysql"),
        ("gopher://host/shardboard", "cannot be kept at gopher"),
        ("postgresql+pool://host/shardboard", "cannot be kept at postgresql\\+pool"),
        ("postgresql://host", "names no database"),
    ],
)
def test_a_place_that_cannot_hold_a_registry_is_refused(location: str, message: str) -> None:
    with pytest.raises(RegistryError, match=message) as raised:
        Registry.open(location)
    assert raised.value.advice


def test_a_password_is_never_shown() -> None:
    location = locate("postgresql://me:s%40cret@host:5433/shardboard?sslmode=require")
    assert isinstance(location, PostgresqlServer)
    assert location.name == "postgresql://me:***@host:5433/shardboard?sslmode=require"
    assert "s%40cret" not in repr(location)
    assert location.writer().connect_params["password"] == "s@cret"


def test_a_server_that_is_not_there_is_told_with_its_reason(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    with pytest.raises(RegistryError, match=r"cannot be reached: .*(No such file|refused)") as raised:
        Registry.open(f"postgresql:///registry?host={tmp_path}")
    assert "Check that the server runs" in raised.value.advice


def test_a_database_that_does_not_exist_on_the_server_is_told_with_its_reason(server: Server) -> None:
    with pytest.raises(RegistryError, match="nowhere"):
        Registry.open(server.url("nowhere"))


def test_no_thread_and_no_file_is_left_by_an_opening_that_failed(file: Path) -> None:
    file.write_bytes(b"no database " * 100)
    with pytest.raises(RegistryError):
        Registry.open(file)
    assert [thread.name for thread in threading.enumerate() if thread.name == "registry-writer"] == []
    file.unlink()
    with Registry.open(file) as registry:
        assert registry.nodes.list() == []
    shutil.rmtree(file.parent)
