"""Registries of both kinds: SQLite files, and databases of a private PostgreSQL server where its programs are found."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from app.registry import NodeRecord, Registry

REPOSITORY = Path(__file__).resolve().parents[2]


EMPTY = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
DO $$ DECLARE name text; BEGIN
    FOR name IN SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema' LOOP
        EXECUTE format('DROP SCHEMA %I CASCADE', name);
    END LOOP;
END $$;
CREATE SCHEMA public;
"""
"""What makes a database as if it were new, in a twentieth of the time, and without a thousand files for each test."""


@dataclass(frozen=True)
class Server:
    """A running PostgreSQL server that listens on a socket in `folder` only."""

    folder: Path
    programs: Path
    emptied: list[str] = field(default_factory=list)
    """Databases that nobody uses any more."""

    def url(self, database: str) -> str:
        return f"postgresql:///{database}?host={self.folder}&user=shardboard"

    def new_database(self) -> str:
        name = f"registry_{uuid.uuid4().hex}"
        self.query("postgres", f"CREATE DATABASE {name}")
        return name

    @contextmanager
    def lent(self) -> Iterator[str]:
        """The URL of an empty database, which the next one gets when it is done with."""
        name = self.emptied.pop() if self.emptied else self.new_database()
        yield self.url(name)
        self.query(name, EMPTY)
        self.emptied.append(name)

    def query(self, database: str, sql: str) -> str:
        command: list[str | Path] = [
            self.programs / "psql",
            "-h",
            self.folder,
            "-U",
            "shardboard",
            "-d",
            database,
            "-At",
            "-c",
            sql,
        ]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _programs() -> Path | None:
    on_path = shutil.which("postgres")
    candidates = [Path(on_path).resolve().parent] if on_path else []
    for pattern in ("usr/lib/postgresql/*/bin", "opt/homebrew/opt/postgresql*/bin", "usr/local/opt/postgresql*/bin"):
        candidates += sorted(Path("/").glob(pattern), reverse=True)
    return next((folder for folder in candidates if (folder / "initdb").exists()), None)


@dataclass(frozen=True)
class _Account:
    """The account to run the server as, for subprocess; None stands for the present one."""

    user: str | None = None
    group: int | None = None
    extra_groups: list[int] | None = None

    @classmethod
    def find(cls) -> _Account:
        """PostgreSQL refuses to run as root: then it is run by an account that may do less."""
        if sys.platform == "win32" or os.geteuid() != 0:
            return cls()
        import pwd

        names = {entry.pw_name for entry in pwd.getpwall()}
        name = "postgres" if "postgres" in names else "nobody"
        return cls(name, pwd.getpwnam(name).pw_gid, [])


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    programs = _programs()
    if programs is None or sys.platform == "win32":
        pytest.skip("no PostgreSQL server programs on this machine (Debian: apt install postgresql)")
    pytest.importorskip("psycopg", reason="no PostgreSQL driver: pip install 'psycopg[binary]'")
    # Not under pytest's folders: those are private to this account, and too long a name for a socket.
    folder = Path(tempfile.mkdtemp(prefix="shardboard-pg-"))
    try:
        yield from _serve(Server(folder, programs), _Account.find())
    finally:
        shutil.rmtree(folder)


def _serve(server: Server, account: _Account) -> Iterator[Server]:
    """Run the server for as long as the caller needs it."""
    if account.user is not None:
        shutil.chown(server.folder, account.user)
    data = server.folder / "data"
    log = server.folder / "log"
    initdb: list[str | Path] = [
        server.programs / "initdb",
        "-D",
        data,
        "-A",
        "trust",
        "-U",
        "shardboard",
        "-E",
        "UTF8",
        "--no-sync",
    ]
    serve: list[str | Path] = [
        server.programs / "postgres",
        "-D",
        data,
        "-c",
        f"unix_socket_directories={server.folder}",
    ]
    serve += ["-c", "listen_addresses=", "-c", "fsync=off"]
    ready: list[str | Path] = [server.programs / "pg_isready", "-q", "-h", server.folder]
    subprocess.run(
        initdb,
        check=True,
        capture_output=True,
        cwd=server.folder,
        user=account.user,
        group=account.group,
        extra_groups=account.extra_groups,
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            serve,
            stdout=output,
            stderr=output,
            cwd=server.folder,
            user=account.user,
            group=account.group,
            extra_groups=account.extra_groups,
        )
    try:
        deadline = time.monotonic() + 30
        while subprocess.run(ready, check=False).returncode != 0:
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield server
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The path of a registry that does not exist yet."""
    return tmp_path / "registry.sqlite3"


@pytest.fixture(params=["sqlite", "postgresql"])
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield str(tmp_path / "registry.sqlite3")
    else:
        server: Server = request.getfixturevalue("server")
        with server.lent() as url:
            yield url


@pytest.fixture
def registry(location: str) -> Iterator[Registry]:
    with Registry.open(location) as opened:
        yield opened


@pytest.fixture
def node(registry: Registry) -> NodeRecord:
    return registry.nodes.add(hostname="alpha", ip_address="10.0.0.1", port=5670, public_key="key of alpha")


@dataclass(frozen=True)
class Child:
    """Runs Python programs in processes of their own, which can be killed."""

    running: list[subprocess.Popen[str]]

    def start(self, program: str, *arguments: str | Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.running.append(process)
        return process

    @staticmethod
    def line(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    @staticmethod
    def kill(process: subprocess.Popen[str]) -> list[str]:
        """Kill it without a warning; what it had printed and nobody had read."""
        process.kill()
        return process.communicate()[0].splitlines()


@pytest.fixture
def child() -> Iterator[Child]:
    running: list[subprocess.Popen[str]] = []
    yield Child(running)
    for process in running:
        process.kill()
        process.communicate()
