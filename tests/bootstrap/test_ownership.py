"""Set-up writes and clears only what it made itself; whatever else stands at `.venv` is named and left as it is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bootstrap.environment import Environment
from bootstrap.faults import SetupError
from bootstrap.ownership import MARK, STAMP, made_for
from tests.bootstrap.starting import start_agent

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="drives the bash scripts, and links need rights there")


def picture(*folders: Path) -> dict[str, object]:
    """Everything below: links by where they lead, files by content and time."""
    found: dict[str, object] = {}
    for folder in folders:
        for path in [folder, *folder.rglob("*")]:
            if "bootstrap" in path.parts[len(folder.parts) :]:
                continue  # Python keeps its compiled files there
            if path.is_symlink():
                found[str(path)] = path.readlink()
            elif path.is_file():
                found[str(path)] = (path.read_bytes(), path.stat().st_mtime_ns)
            else:
                found[str(path)] = "folder"
    return found


def stamped(folder: Path, root: Path) -> Path:
    """An environment as an earlier version left it: a stamp, and no mark."""
    (folder / "bin").mkdir(parents=True)
    (folder / "pyvenv.cfg").write_text("version = 3.11.0\n")
    kept = {"root": str(root), "fingerprint": "of another day", "python": "3.11.0", "extras": []}
    (folder / STAMP).write_text(json.dumps(kept))
    return folder


def link_to_another_checkouts(venv: Path, elsewhere: Path) -> None:
    venv.symlink_to(stamped(elsewhere / ".venv", elsewhere))


def link_to_a_users(venv: Path, elsewhere: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(elsewhere / "mine")], check=True)
    venv.symlink_to(elsewhere / "mine")


def link_to_nothing(venv: Path, elsewhere: Path) -> None:
    venv.symlink_to(elsewhere / "gone")


def link_to_an_empty_folder(venv: Path, elsewhere: Path) -> None:
    venv.symlink_to(elsewhere)


def a_file(venv: Path, elsewhere: Path) -> None:
    venv.write_text("see the wiki\n")


def a_users_environment(venv: Path, elsewhere: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)


def a_folder_of_other_things(venv: Path, elsewhere: Path) -> None:
    venv.mkdir()
    (venv / "thesis.txt").write_text("years of work\n")


@pytest.mark.parametrize(
    ("stands", "says", "advises"),
    [
        (link_to_another_checkouts, "the environment of the checkout", "Remove the link"),
        (link_to_a_users, "a link to", "Remove the link"),
        (link_to_nothing, "where nothing is", "Remove the link"),
        (link_to_an_empty_folder, "a link to", "Remove the link"),
        (a_file, ".venv is a file", "Move it away"),
        (a_users_environment, "a Python environment that Shardboard did not make", "Move it away"),
        (a_folder_of_other_things, "a folder that Shardboard did not make", "Move it away"),
    ],
)
def test_what_set_up_did_not_make_is_named_and_left_as_it_is(
    stands: Callable[[Path, Path], None],
    says: str,
    advises: str,
    machine_folder: Path,
    offline: dict[str, str],
    tmp_path: Path,
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    stands(machine_folder / ".venv", elsewhere)
    before = picture(machine_folder, elsewhere)
    for unfinished in (False, True):  # an earlier set-up may have been cut off here, before the user put this there
        if unfinished:
            (machine_folder / ".venv.unfinished").touch()
            before = picture(machine_folder, elsewhere)
        refused = start_agent(machine_folder, offline)
        assert refused.returncode == 1
        assert says in refused.stderr
        assert advises in refused.stderr
        assert "an environment of your own" in refused.stderr
        assert picture(machine_folder, elsewhere) == before


def test_an_environment_that_the_user_moved_to_another_disk_goes_on_and_is_not_cleared_there(tmp_path: Path) -> None:
    root, disk = tmp_path / "checkout", tmp_path / "disk"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\nname = 'shardboard'\n")
    stamped(disk / "venv", root)
    (root / ".venv").symlink_to(disk / "venv")
    environment = Environment(root)
    (disk / "venv" / "bin" / "python").symlink_to(sys.executable)
    environment.wanted(frozenset()).write(disk / "venv" / STAMP)
    environment.ensure(())
    (disk / "venv" / "bin" / "python").unlink()
    before = picture(disk)
    with pytest.raises(SetupError, match="has to be made anew") as refused:
        environment.ensure(())
    assert "Remove the link and what it leads to" in refused.value.advice
    assert {path for path in picture(disk) if MARK not in path} == set(before)


def test_our_own_is_made_anew_without_following_links_in_it(
    machine_folder: Path, offline: dict[str, str], quick_python: str, tmp_path: Path
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "thesis.txt").write_text("years of work\n")
    venv = stamped(machine_folder / ".venv", machine_folder)  # its Python is gone
    (venv / "bin" / "python").symlink_to(tmp_path / "gone")
    (venv / "share").symlink_to(precious)
    (venv / "old.txt").write_text("of an earlier time")
    made = start_agent(machine_folder, offline, "works", python=quick_python)
    assert made.stdout == "agent ['works']\n", made.stderr
    assert made_for(venv) == str(machine_folder)
    assert not (venv / "share").exists() and not (venv / "old.txt").exists()
    assert (precious / "thesis.txt").read_text() == "years of work\n"


def test_a_set_up_that_was_cut_off_before_it_began_to_write_is_known_as_ours(tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    (root / ".venv" / "lib").mkdir(parents=True)
    (root / ".venv" / MARK).write_text(json.dumps({"root": str(root)}))
    (root / ".venv" / "lib" / "half").write_text("")
    environment = Environment(root)
    environment._ownership.check()
    environment._ownership.clear()
    assert [path.name for path in (root / ".venv").iterdir()] == [MARK]


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / ".venv").mkdir()
    ownership = Environment(tmp_path)._ownership
    ownership.check()
    ownership.claim()
    assert made_for(tmp_path / ".venv") == str(tmp_path)


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A project in a folder that cannot be written to; to root everything can, but a file system mounted so."""
    folder = tmp_path / "read only"
    folder.mkdir()
    mounted = os.geteuid() == 0
    if mounted and subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        (folder / "pyproject.toml").write_text("[project]\nname = 'shardboard'\n")
        if mounted:
            subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        else:
            folder.chmod(0o555)
        yield folder
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)
        else:
            folder.chmod(0o755)


def test_a_folder_that_cannot_be_written_to_is_named(read_only: Path) -> None:
    with pytest.raises(SetupError, match="cannot be written to") as refused:
        Environment(read_only).ensure(())
    assert str(read_only) in refused.value.message
    assert "copy the folder" in refused.value.advice
