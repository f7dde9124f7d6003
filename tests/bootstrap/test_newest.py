"""`./test --newest` as a user starts it: an environment of its own, with newer releases than pyproject.toml allows."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bootstrap.newest import EXACTNESS
from tests.bootstrap.conftest import make_wheel

ROOT = Path(__file__).resolve().parent.parent.parent
PROJECT = """[project]
name = 'shardboard'
dependencies = ['msgspec>=0.19', 'torch>=2.9,<2.14', 'transformers>=5.23,<5.25']
[project.optional-dependencies]
dev = ['pytest>=8.4']
"""
PYTEST = """
import sys, msgspec, torch, transformers
print('pytest', torch.build, transformers.name, sys.argv[1:])
sys.exit('status' in sys.argv[-1] and 3)
"""

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="drives the bash scripts")


@pytest.fixture
def project(tmp_path: Path, offline: dict[str, str]) -> Path:
    """A checkout whose index has older and newer releases than it allows."""
    packages = Path(offline["PIP_FIND_LINKS"])
    for label in ("", "+cpu"):
        make_wheel(packages, "torch", f"2.15.0{label}", {"torch.py": f"build = '2.15.0{label}'\n"})
    for version in ("5.24.0", "6.1.0"):
        make_wheel(packages, "transformers", version, {"transformers.py": f"name = '{version}'\n"})
    make_wheel(packages, "msgspec", "0.22.0", {"msgspec.py": ""})
    make_wheel(packages, "pytest", "9.0.0", {"pytest/__init__.py": "", "pytest/__main__.py": PYTEST})
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "bootstrap", folder / "bootstrap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "test", folder)
    (folder / "pyproject.toml").write_text(PROJECT)
    own = folder / ".venv"
    own.mkdir()
    (own / "kept").write_text("somebody's")
    return folder


def start(folder: Path, offline: dict[str, str], *arguments: str, python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(folder / "test"), "--newest", *arguments],
        env={**offline, "SHARDBOARD_PYTHON": python},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_newest_releases_are_tried_whatever_the_project_allows_and_its_own_environment_is_left_alone(
    project: Path, offline: dict[str, str], quick_python: str
) -> None:
    done = start(project, offline, python=quick_python)
    assert done.returncode == 0, done.stderr
    ran, said = done.stdout.splitlines()
    assert ran == f"pytest 2.15.0+cpu 6.1.0 {list(EXACTNESS)}", "the build for the CPU goes before the plain one"
    assert said == (
        "With torch 2.15.0+cpu and transformers 6.1.0, the tests pass. "
        "pyproject.toml allows torch>=2.9,<2.14 and transformers>=5.23,<5.25."
    )
    assert [each.name for each in (project / ".venv").iterdir()] == ["kept"]

    # What came out since is taken the next time; pytest gets what it is told, and how it ends is told.
    make_wheel(Path(offline["PIP_FIND_LINKS"]), "transformers", "6.2.0", {"transformers.py": "name = '6.2.0'\n"})
    again = start(project, offline, "tests/some", "-k", "status", python=quick_python)
    assert again.returncode == 3
    assert again.stdout.splitlines()[0] == "pytest 2.15.0+cpu 6.2.0 ['tests/some', '-k', 'status']"
    assert "tests fail (pytest's exit code is 3)" in again.stdout


def test_where_the_index_offers_nothing_it_is_said_what_is_missing(
    project: Path, offline: dict[str, str], quick_python: str
) -> None:
    for wheel in Path(offline["PIP_FIND_LINKS"]).glob("transformers-*"):
        wheel.unlink()
    failed = start(project, offline, python=quick_python)
    assert failed.returncode == 1
    assert "offers no transformers" in failed.stderr and "Traceback" not in failed.stderr


def test_the_tests_that_it_runs_are_there() -> None:
    assert [each for each in EXACTNESS if not (ROOT / each).is_file()] == []
