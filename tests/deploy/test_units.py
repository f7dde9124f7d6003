"""The units for systemd, as shipped and as filled in for an installation, judged by systemd itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from app.cli.systemd import service_unit
from bootstrap.agent_unit import NAME, agent_unit
from bootstrap.faults import SetupError

ROOT = Path(__file__).resolve().parent.parent.parent
ANALYZE = shutil.which("systemd-analyze")

pytestmark = pytest.mark.skipif(os.name == "nt", reason="systemd is Linux's")
judged = pytest.mark.skipif(
    ANALYZE is None, reason="systemd-analyze is not installed (Debian: apt-get install systemd)"
)


def verify(unit: Path) -> str:
    """What systemd finds wrong with a unit: nothing is the empty text."""
    done = subprocess.run([str(ANALYZE), "verify", unit], capture_output=True, text=True, timeout=60, check=False)
    return "\n".join(line for line in done.stderr.splitlines() if "shardboard" in line)


def kept_in(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@judged
def test_the_shipped_units_are_units_but_for_where_python_lies(tmp_path: Path) -> None:
    for name in ("shardboard.service", NAME):
        text = (ROOT / "deploy" / "systemd" / name).read_text()
        assert "/opt/shardboard/.venv/bin/python" in verify(kept_in(tmp_path, name, text))
        assert verify(kept_in(tmp_path, name, text.replace("/opt/shardboard/.venv/bin/python", sys.executable))) == ""


@judged
@pytest.mark.parametrize("user", [0, 1000])
def test_units_for_an_installation_are_taken_by_systemd(
    user: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: user)
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path / "my home"))
    controller = service_unit("0.0.0.0", 8000, 12.5)
    assert verify(kept_in(tmp_path, "shardboard.service", controller)) == ""
    assert "serve --drain-seconds 12.5 --host 0.0.0.0 --port 8000 $SERVE_OPTIONS" in controller
    agent = agent_unit(ROOT, Path(sys.executable), ["--listen", "192.168.1.20:7600", '--trust=a$b%c d"e'])
    assert verify(kept_in(tmp_path, NAME, agent)) == ""
    assert '--listen 192.168.1.20:7600 "--trust=a$$b%%c d\\"e" $AGENT_OPTIONS' in agent


@judged
def test_systemd_finds_what_is_wrong_with_a_unit(tmp_path: Path) -> None:
    broken = service_unit(None, None, 30).replace("Type=notify", "Type=sometimes")
    assert "sometimes" in verify(kept_in(tmp_path, "shardboard.service", broken))


def test_a_user_runs_it_with_the_home_that_the_users_commands_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path / "mine"))
    lines = service_unit(None, None, 30).splitlines()
    assert f'Environment="SHARDBOARD_HOME={tmp_path / "mine"}"' in lines
    assert f"ReadWritePaths={tmp_path / 'mine'} {tmp_path / 'mine' / 'models'}" in lines
    assert {"ProtectHome=read-only", "ProtectSystem=strict", "NoNewPrivileges=yes"} <= set(lines)
    assert not any(line.startswith(("DynamicUser", "StateDirectory")) for line in lines)
    assert (tmp_path / "mine" / "models").is_dir()  # a path that is not there would keep the service from starting


def test_root_leaves_user_and_state_to_systemd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    lines = service_unit(None, None, 30).splitlines()
    assert {"DynamicUser=yes", "StateDirectory=shardboard", 'Environment="SHARDBOARD_HOME=/var/lib/shardboard"'} <= set(
        lines
    )


def test_an_agent_beside_its_wheel_finds_its_unit_there_or_says_that_it_is_missing(tmp_path: Path) -> None:
    python = tmp_path / ".venv" / "bin" / "python"
    with pytest.raises(SetupError, match=NAME):
        agent_unit(tmp_path, python, [])
    shutil.copy(ROOT / "worker_agent" / "launch" / NAME, tmp_path)
    unit = agent_unit(tmp_path, python, [])
    assert f"ExecStart={python} -P -m worker_agent --home ${{STATE_DIRECTORY}} $AGENT_OPTIONS" in unit
    assert f"{tmp_path}/agent.sh --systemd" in unit
