"""The doctor sees what is wrong, and changes nothing."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.root import app
from app.paths import Home
from app.registry import Registry
from worker_agent.wire.keys import KeyPair


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODEL_CACHE_DIR", raising=False)
    return Home.find()


def examined(*arguments: str) -> tuple[int, dict[str, dict[str, str]]]:
    result = CliRunner().invoke(app, ["doctor", "--json", *arguments])
    return result.exit_code, {check["name"]: check for check in json.loads(result.stdout)}


def test_a_fresh_machine_is_well_and_stays_untouched(home: Home) -> None:
    code, checks = examined()
    assert code == 0
    assert {"Python", "Packages", "Home", "Keys", "Disk, state", "Memory", "Ports", "Registry"} <= set(checks)
    assert "torch" in checks["Packages"]["found"]
    assert not home.root.exists()


def test_a_used_home_is_described(home: Home) -> None:
    home.create()
    KeyPair.load_or_create(home.keys)
    Registry.open(home.registry).close()
    code, checks = examined()
    assert code == 0
    assert checks["Keys"]["found"] == "1, readable by you alone"
    assert "0 nodes" in checks["Registry"]["found"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no file modes")
def test_a_key_that_others_may_read_is_named_with_the_remedy(home: Home) -> None:
    home.create()
    key = home.keys / "agent.key"
    KeyPair.load_or_create(home.keys)
    key.chmod(0o644)
    code, checks = examined()
    assert code == 1
    assert checks["Keys"]["verdict"] == "failed" and checks["Keys"]["advice"] == f"chmod 600 {key}"


def test_a_broken_registry_is_reported(home: Home) -> None:
    home.create().registry.write_bytes(b"no database, but long enough to be taken for one" * 100)
    code, checks = examined()
    assert code == 1 and checks["Registry"]["verdict"] == "failed"


def test_a_port_in_use_is_reported(home: Home) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = taken.getsockname()[1]
        code, checks = examined("--port", str(port))
    assert code == 1 and checks[f"Port {port}"]["verdict"] == "failed"


def test_an_agent_that_is_gone_is_reported(home: Home) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    with Registry.open(home.create().registry) as registry:
        registry.nodes.add(
            hostname="here-1",
            ip_address="127.0.0.1",
            port=1,
            public_key="k" * 40,
            agent_id="0" * 16,
            local_pid=child.pid,
        )
    code, checks = examined()
    assert code == 0  # a warning: all else works
    assert "is gone" in checks["Agent here-1 (node 1)"]["found"]


def test_torch_is_not_imported_for_its_version(home: Home) -> None:
    probe = """
import sys
from app.cli.root import app
try:
    app(["doctor"])
except SystemExit:
    print("torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_links_between_agents_are_measured_and_shown(home: Home) -> None:
    home.create()
    runner = CliRunner()
    assert runner.invoke(app, ["node", "local", "2", "--memory", "300MB"]).exit_code == 0
    try:
        result = runner.invoke(app, ["doctor", "--links", "--json"])
        assert result.exit_code == 0, result.output
        links = json.loads(result.stdout)["links"]
        assert {(each["link"]["source_id"], each["link"]["target_id"]) for each in links} == {(1, 2), (2, 1)}
        assert all(each["link"]["outcome"] == "measured" and each["link"]["rtt"] > 0 for each in links)
        shown = runner.invoke(app, ["doctor", "--links"])
        assert shown.exit_code == 0 and "Links between agents" in shown.stdout
    finally:
        for number in ("1", "2"):
            runner.invoke(app, ["node", "remove", number])


def test_links_need_two_nodes(home: Home) -> None:
    home.create()
    result = CliRunner().invoke(app, ["doctor", "--links"])
    assert result.exit_code != 0
