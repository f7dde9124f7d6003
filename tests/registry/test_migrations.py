"""Registries of every released version open; newer ones do not; nothing changes without a backup."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from playhouse.schema_diff import diff_models

from app.errors import RegistryError
from app.registry import DeploymentStatus, EventLevel, JobStatus, Registry, RequestStatus
from app.registry.backup import KEPT
from app.registry.migration import MIGRATIONS
from app.registry.tables import TABLES

DATABASES = Path(__file__).parent / "databases"

ADD_COLUMN = """
from peewee import CharField

def up(migrator, db):
    migrator.migrate(migrator.add_column("worker_node", "rack", CharField(default="somewhere")))
"""

FAILING = """
from peewee import CharField

def up(migrator, db):
    migrator.migrate(migrator.add_column("worker_node", "shelf", CharField(default="")))
    db.execute_sql("SELECT no_such_column FROM worker_node")
"""


@pytest.fixture
def later(tmp_path: Path) -> Path:
    """The migrations of a later Shardboard, which knows the racks of its nodes."""
    folder = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "0999_rack.py").write_text(ADD_COLUMN, encoding="utf-8")
    return folder


def rack_of_first_node(file: Path) -> str:
    with closing(sqlite3.connect(file)) as connection:
        return str(connection.execute("SELECT rack FROM worker_node").fetchone()[0])


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_registry_of_each_version_opens_with_all_that_is_in_it(file: Path, version: int) -> None:
    shutil.copy(DATABASES / f"version_{version}.sqlite3", file)
    with Registry.open(file) as registry:
        (node,) = registry.nodes.list()
        assert (node.hostname, node.address, node.capacities) == (
            "älpha",
            "tcp://10.0.0.1:5670",
            {"memory": 68719476736},
        )
        assert node.last_heartbeat is not None and node.last_heartbeat.isoformat() == "2026-01-02T03:04:05.000006+00:00"
        (model,) = registry.models.list()
        assert (model.name, model.layers, model.weight_bytes) == ("smollm", 30, 538_060_800)
        (deployment,) = registry.deployments.list()
        assert (deployment.id, deployment.epoch, deployment.status) == ("deadbeef", 3, DeploymentStatus.READY)
        placed, folder = sorted(registry.shards.list(), key=lambda shard: shard.id)
        assert (placed.node_id, placed.deployment_id, placed.is_loaded) == (node.id, "deadbeef", True)
        assert (folder.node_id, folder.path, folder.end_layer) == (None, "/shards/shard_1", 30)
        (request,) = registry.requests.list()
        assert (request.status, request.result, request.token_ids) == (RequestStatus.COMPLETED, "Paris.", (7042, 30))
        assert request.timings == {"first_token": 0.25}
        (event,) = registry.events.list(level=EventLevel.INFO)
        assert (event.message, event.details, event.node_id) == ("node added", {"by": "invite"}, node.id)
        # Jobs came with version 2.
        jobs = [(job.kind, job.status, job.details.get("bytes")) for job in registry.jobs.list()]
        assert jobs == ([] if version == 1 else [("cut", JobStatus.DONE, 538_060_800)])


def test_the_migrations_make_the_tables_that_the_models_describe(registry: Registry) -> None:
    difference = registry._store.run(lambda database: diff_models(database, list(TABLES)))
    assert not difference, difference


# A released migration that was edited would show up here.
@pytest.mark.parametrize(
    ("version", "newest"), [(1, "0001_initial.py"), (2, "0002_jobs_and_search.py"), (3, "0003_runs.py")]
)
def test_the_stored_versions_have_the_tables_that_their_migrations_make(
    file: Path, tmp_path: Path, version: int, newest: str
) -> None:
    folder = tmp_path / "first"
    folder.mkdir()
    for migration in sorted(MIGRATIONS.glob("0*.py")):
        if migration.name <= newest:
            shutil.copy(migration, folder)
    # Beside a controller: nothing is asked of tables that only came later.
    Registry.open(file, lock=False, migrations=folder).close()

    def schema(path: str | Path) -> list[tuple[str]]:
        with closing(sqlite3.connect(path)) as connection:
            return connection.execute("SELECT sql FROM sqlite_master WHERE sql NOT NULL ORDER BY name").fetchall()

    stored = shutil.copy(DATABASES / f"version_{version}.sqlite3", tmp_path / "stored.sqlite3")
    assert schema(file) == schema(stored)


def test_a_later_shardboard_migrates_and_keeps_what_is_there(file: Path, later: Path) -> None:
    shutil.copy(DATABASES / "version_1.sqlite3", file)
    with Registry.open(file, migrations=later) as registry:
        assert len(registry.shards.list()) == 2
    assert rack_of_first_node(file) == "somewhere"


def test_a_backup_of_the_whole_registry_is_taken_before_it_changes(file: Path, later: Path) -> None:
    with Registry.open(file) as registry:
        registry.nodes.add(hostname="alpha", ip_address="10.0.0.1", port=1, public_key="k")
    Registry.open(file, migrations=later).close()
    (backup,) = (file.parent / "backups").iterdir()
    newest = max(migration.stem for migration in MIGRATIONS.glob("0*.py"))
    assert backup.name.endswith(f"-{newest}.sqlite3")
    restored = shutil.copy(backup, file.parent / "restored.sqlite3")
    with Registry.open(restored) as registry:
        assert [node.hostname for node in registry.nodes.list()] == ["alpha"]
    Registry.open(file, migrations=later).close()
    assert list((file.parent / "backups").iterdir()) == [backup], "nothing changed, nothing to back up"


def test_a_new_registry_needs_no_backup(file: Path, later: Path) -> None:
    Registry.open(file, migrations=later).close()
    assert not (file.parent / "backups").exists()


def test_only_the_newest_backups_are_kept(file: Path, later: Path) -> None:
    Registry.open(file).close()
    (file.parent / "backups").mkdir()
    note = file.parent / "backups" / "a note of the user"
    note.touch()
    for number in range(KEPT + 2):
        (later / f"{1000 + number}_next.py").write_text("def up(migrator, db): pass", encoding="utf-8")
        Registry.open(file, migrations=later).close()
    backups = sorted(path.name for path in (file.parent / "backups").iterdir() if path != note)
    assert [name.rsplit("-")[-1] for name in backups] == [f"{1001 + n}_next.sqlite3" for n in range(KEPT)]
    assert note.exists()


def test_a_newer_registry_is_refused_and_left_alone(location: str, later: Path) -> None:
    with Registry.open(location, migrations=later) as registry:
        registry.events.add(EventLevel.INFO, "test", "")
    with pytest.raises(RegistryError, match=r"newer Shardboard: it has been through 0999_rack") as raised:
        Registry.open(location)
    assert "Start the newer version again" in raised.value.advice
    with pytest.raises(RegistryError, match="newer Shardboard"):
        Registry.open(location, lock=False)
    with Registry.open(location, migrations=later) as registry:
        assert registry.events.count() == 1


def test_a_migration_that_fails_changes_nothing(location: str, later: Path) -> None:
    Registry.open(location).close()
    (later / "1000_failing.py").write_text(FAILING, encoding="utf-8")
    with pytest.raises(RegistryError, match=r"1000_failing failed: .*no_such_column"):
        Registry.open(location, migrations=later)
    # The one before it was done and stays; of the failing one nothing is there, so it can be tried again.
    (later / "1000_failing.py").write_text(FAILING.replace("no_such_column", "shelf"), encoding="utf-8")
    with Registry.open(location, migrations=later) as registry:
        columns = registry._store.run(lambda database: {column.name for column in database.get_columns("worker_node")})
        assert {"rack", "shelf"} <= columns


def test_tables_do_not_change_under_a_controller(location: str, later: Path) -> None:
    with Registry.open(location) as controller:
        with pytest.raises(RegistryError, match="in use by another Shardboard"):
            Registry.open(location, lock=False, migrations=later)
        assert controller.nodes.list() == []
    with Registry.open(location, lock=False, migrations=later), Registry.open(location, migrations=later) as controller:
        assert controller.nodes.list() == []


def test_a_damaged_registry_is_not_migrated(file: Path, later: Path) -> None:
    with Registry.open(file) as registry:
        for _ in range(50):
            registry.events.add(EventLevel.INFO, "test", "x" * 5000)
    content = bytearray(file.read_bytes())
    content[len(content) // 2 :] = bytes(len(content) - len(content) // 2)
    file.write_bytes(content)
    with pytest.raises(RegistryError, match="damaged"):
        Registry.open(file, migrations=later)
    assert file.read_bytes() == content
