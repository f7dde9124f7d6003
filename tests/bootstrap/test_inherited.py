"""Set-up under a careless parent: what it inherits does not get into the environment or into what it starts."""

from __future__ import annotations

import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bootstrap.conftest import make_wheel
from tests.inheriting import inheriting

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX conditions")

TELLS = """
import json, os, signal, sys
path = sys.argv[1]
with open(path, "w") as out:
    json.dump({
        "python": sorted(name for name in os.environ if name.startswith("PYTHON")),
        "torch": __import__("torch").__file__,
        "optimize": sys.flags.optimize,
    }, out)
print("said", file=sys.stderr)
"""


def hostile(tmp_path: Path) -> dict[str, str]:
    """Variables that are meant for other programs: with each of them alone, set-up or its pip would go astray."""
    others = tmp_path / "others"
    (others / "torch-2.13.0.dist-info").mkdir(parents=True)
    (others / "torch-2.13.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: torch\nVersion: 2.13.0\n")
    (others / "torch.py").write_text("raise SystemExit('the torch of another Python')\n")
    return {
        "PYTHONHOME": str(tmp_path / "nowhere"),
        "PYTHONPATH": str(others),
        "PYTHONOPTIMIZE": "2",
        "PYTHONINSPECT": "1",
        "PYTHONIOENCODING": "nonsense",
        "PYTHONWARNINGS": "error",
        "LC_ALL": "nonsense",
        "PIP_TARGET": str(tmp_path / "target"),
        "PIP_USER": "1",
    }


def test_set_up_under_a_careless_parent_makes_a_whole_environment(
    machine_folder: Path, offline: dict[str, str], tmp_path: Path
) -> None:
    make_wheel(
        machine_folder, "shardboard", "0.0.1", {"worker_agent/__init__.py": "", "worker_agent/__main__.py": TELLS}
    )
    told = tmp_path / "told.json"
    command = inheriting(
        "bash", str(machine_folder / "agent.sh"), str(told),
        ignored=("SIGINT", "SIGTERM", "SIGCHLD"), blocked=("SIGINT", "SIGCHLD"), closed=(0, 1, 2), umask=0o777,
        folder_gone=True, variables={**hostile(tmp_path), "SHARDBOARD_PYTHON": sys.executable},
    )  # fmt: skip
    done = subprocess.run(command, env=offline, check=False, timeout=120)
    log = machine_folder / ".venv-setup.log"
    assert done.returncode == 0, log.read_text() if log.exists() else "no log"
    assert '"python": []' in told.read_text()
    assert str(machine_folder / ".venv") in told.read_text()
    assert '"optimize": 0' in told.read_text()
    assert not (tmp_path / "target").exists(), "pip installed where the user's settings for it say"
    for path in [told, *(machine_folder / ".venv").rglob("*")]:
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            assert mode & stat.S_IRUSR and mode & stat.S_IWUSR, path


def test_what_is_made_under_an_open_umask_is_not_for_everybody_to_write(
    machine_folder: Path, offline: dict[str, str], quick_python: str
) -> None:
    next(machine_folder.glob("*.whl")).unlink()  # it fails soon, after its lock was made
    (machine_folder / "pyproject.toml").write_text("[project]\nname = 'nothing'\n")
    command = inheriting("bash", str(machine_folder / "agent.sh"), umask=0)
    subprocess.run(
        command,
        env={**offline, "SHARDBOARD_PYTHON": quick_python},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    made = [path for path in machine_folder.rglob("*") if not path.is_symlink()]
    assert machine_folder / ".venv.lock" in made
    assert [path for path in made if path.stat().st_mode & stat.S_IWOTH] == []


def test_a_setting_that_leads_pip_elsewhere_is_named(
    machine_folder: Path, offline: dict[str, str], quick_python: str, tmp_path: Path
) -> None:
    settings = tmp_path / "pip.conf"
    settings.write_text(f"[install]\ntarget = {tmp_path / 'elsewhere'}\n")
    failed = subprocess.run(
        ["bash", str(machine_folder / "agent.sh")],
        env={**offline, "SHARDBOARD_PYTHON": quick_python, "PIP_CONFIG_FILE": str(settings)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert failed.returncode == 1
    assert "but not in" in failed.stderr and "pip config list" in failed.stderr


def test_ctrl_c_is_heard_where_it_was_ignored(machine_folder: Path, offline: dict[str, str], quick_python: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent_index:  # accepts connections and never answers
        waiting = {name: value for name, value in offline.items() if name != "PIP_NO_INDEX"}
        waiting["PIP_INDEX_URL"] = f"http://127.0.0.1:{silent_index.getsockname()[1]}/simple"
        begun = subprocess.Popen(
            inheriting("bash", str(machine_folder / "agent.sh"), ignored=("SIGINT",), blocked=("SIGINT",)),
            env={**waiting, "SHARDBOARD_PYTHON": quick_python},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        silent_index.settimeout(60)
        connection, _ = silent_index.accept()  # pip is under way now
        begun.send_signal(signal.SIGINT)
        _, said = begun.communicate(timeout=20)
        connection.close()
    assert begun.returncode == 130, said
    assert "The set-up was interrupted" in said
