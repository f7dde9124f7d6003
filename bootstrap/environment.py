"""The Python environment in `.venv`: whether it still serves, and how it is made and brought up to date."""

from __future__ import annotations

import errno
import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bootstrap.faults import SetupError, cannot_write, explain
from bootstrap.lock import exclusive
from bootstrap.machine import CPU_TORCH, DEFAULT_TORCH, Machine, space_needed, torch_requirement
from bootstrap.ownership import STAMP, Ownership, made_for
from bootstrap.pip import install, say
from bootstrap.system_packages import apt_install

OLDEST_PYTHON = (3, 11)
LAYOUT = "1"
"""Raised when this bootstrap makes environments differently, so that older ones are brought up to date."""


@dataclass(frozen=True)
class Stamp:
    """Written last, as the sign that an environment is complete, and what it was made from."""

    root: str
    """Where the project lay: an environment does not survive being moved."""
    fingerprint: str
    """Hash of what pip was asked to install."""
    python: str
    extras: frozenset[str]

    @classmethod
    def read(cls, path: Path) -> Stamp | None:
        """None if there is none or it cannot be understood: then the environment is made anew."""
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            return cls(str(kept["root"]), str(kept["fingerprint"]), str(kept["python"]), frozenset(kept["extras"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """At once or not at all: an interrupted write leaves no stamp that looks complete."""
        kept = {
            "root": self.root,
            "fingerprint": self.fingerprint,
            "python": self.python,
            "extras": sorted(self.extras),
        }
        unfinished = path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(kept), encoding="utf-8")
        unfinished.replace(path)

    def serves(self, wanted: Stamp) -> bool:
        """Whether an environment with this stamp can do what is wanted; more extras do no harm."""
        same = (self.root, self.fingerprint, self.python) == (wanted.root, wanted.fingerprint, wanted.python)
        return same and wanted.extras <= self.extras


class Environment:
    """`.venv`, or another folder of that kind, in `root`, which holds the project (pyproject.toml) or else its wheel.

    Nothing is written to a `.venv` that set-up did not make.
    """

    def __init__(self, root: Path, name: str = ".venv") -> None:
        self.root = root
        self.folder = root / name
        self.python = self.folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
        self._stamp = self.folder / STAMP
        self._unfinished = root / f"{name}.unfinished"
        """Stands while the environment is written: found later, that was cut off and may have left halves."""
        self._lock = root / f"{name}.lock"
        self.log = root / f"{name}-setup.log"

    @property
    def _ownership(self) -> Ownership:
        what = " -e ." if (self.root / "pyproject.toml").exists() else " shardboard-*.whl"
        program = "python -m worker_agent"
        if what == " -e .":
            what, program = " -e '.[controller,window,http]'", f"python main.py, and an agent {program}"
        return Ownership(
            self.folder,
            self.root,
            f"To use an environment of your own instead, install Shardboard in it with `pip install{what}` and start "
            f"it there: {program}.",
        )

    def ensure(self, extras: Iterable[str]) -> None:
        """Make the environment hold the project with these extras; quick if it does already.

        Raises:
            SetupError: it cannot be done here; says why and what to do.
        """
        wanted = frozenset(extras)
        if self.serves(wanted):
            return
        self._ownership.check()
        try:
            with exclusive(self._lock, "Another set-up is under way here; waiting for it.") as lock:
                if not self.serves(wanted):
                    self._bring_up_to_date(wanted, lock)
        except KeyboardInterrupt:
            say("\nThe set-up was interrupted. The same command goes on from here.")
            raise
        except PermissionError as error:
            raise cannot_write(error, self.root) from error
        except OSError as error:
            if error.errno == errno.EROFS:
                raise cannot_write(error, self.root) from error
            raise explain(str(error), folder=self.root, free_bytes=self.free_bytes(), log=self.log) from error

    def serves(self, extras: frozenset[str]) -> bool:
        stamp = Stamp.read(self._stamp)
        return stamp is not None and self.python.exists() and stamp.serves(self.wanted(extras))

    def wanted(self, extras: frozenset[str]) -> Stamp:
        return Stamp(str(self.root), self._fingerprint(), python_version(self.folder), extras)

    def _fingerprint(self) -> str:
        project = self.root / "pyproject.toml"
        if project.exists():
            source = project.read_bytes()
        else:  # a wheel's name carries its version, and its time tells two builds of one version apart
            wheel = self._wheel()
            source = f"{wheel.name} {wheel.stat().st_mtime}".encode()
        return hashlib.sha256(f"{LAYOUT} {CPU_TORCH} {DEFAULT_TORCH} ".encode() + source).hexdigest()

    def _wheel(self) -> Path:
        wheels = sorted(self.root.glob("shardboard-*.whl"), key=lambda wheel: wheel.stat().st_mtime)
        if not wheels:
            raise SetupError(
                f"There is nothing to install in {self.root}: neither Shardboard's pyproject.toml nor its wheel.",
                "Copy the wheel (shardboard-*.whl) there.",
            )
        return wheels[-1]

    def requirements(self, machine: Machine, extras: frozenset[str]) -> list[str]:
        """What pip is asked for: torch as this machine wants it, and the project, editable, or the wheel."""
        suffix = f"[{','.join(sorted(extras))}]" if extras else ""
        if (self.root / "pyproject.toml").exists():
            return [torch_requirement(machine), "--editable", f".{suffix}"]
        return [torch_requirement(machine), f"{self._wheel()}{suffix}"]

    def space_needed(self, machine: Machine) -> int:
        """Bytes that the environment and its downloads take, generously."""
        return space_needed(machine)

    def free_bytes(self) -> int:
        return shutil.disk_usage(self.root).free

    def _bring_up_to_date(self, extras: frozenset[str], lock: int) -> None:
        machine = Machine.look()
        before = Stamp.read(self._stamp)
        if before is not None:
            extras |= before.extras  # what was installed for another command stays up to date too
        if machine.nvidia:
            extras |= {"gpu"}
        self._fingerprint()  # where there is nothing to install, that is said before anything is written
        self._ownership.check()  # again: another set-up may have been at it while this one waited
        usable = self._usable()
        self._unfinished.touch()
        if usable:
            self._ownership.claim()  # first the mark, then the stamp goes: one of the two always stands
            self._stamp.unlink(missing_ok=True)
            say(f"Bringing the environment in {self.folder} up to date")
        else:
            self._create(machine)
        requirements = self.requirements(machine, extras)
        code, output = install(self.python, requirements, folder=self.root, log=self.log, keep_open=lock)
        if code != 0:
            if "Installing collected packages" not in output:
                self._unfinished.unlink()  # pip had not begun to write: what is there is whole
            raise explain(output, folder=self.root, free_bytes=self.free_bytes(), log=self.log)
        self.check_installed()
        self._unfinished.unlink()
        self.wanted(extras).write(self._stamp)
        say("The environment is ready.")

    def check_installed(self) -> None:
        """What was asked for is there. Raises SetupError."""
        self._check_present(("shardboard", "torch"))

    def _check_present(self, packages: Sequence[str]) -> None:
        """pip can be told to install elsewhere (`target`, `prefix` in its configuration), and then is content."""
        probe = f"from importlib.metadata import version; [version(name) for name in {tuple(packages)!r}]"
        found = subprocess.run([str(self.python), "-I", "-c", probe], capture_output=True, check=False)
        if found.returncode != 0:
            raise SetupError(
                f"pip installed {packages[0]}, but not in {self.folder}.",
                f"Look for `target`, `prefix` or `root` in what `{self.python} -m pip config list` shows, and take it "
                f"out. pip's own words: {self.log}",
            )

    def _usable(self) -> bool:
        """Whether pip can go on in the environment that is there, or must it be made anew."""
        moved = made_for(self.folder) != str(self.root)
        if moved or self._unfinished.exists() or not self.python.exists():
            return False
        probe = "import sys, pip; sys.exit(sys.version_info < " + repr(OLDEST_PYTHON) + ")"
        return subprocess.run([str(self.python), "-c", probe], capture_output=True, check=False).returncode == 0

    def _create(self, machine: Machine) -> None:
        version = ".".join(str(number) for number in sys.version_info[:3])
        say(f"Setting up Shardboard in {self.folder} with Python {version}: once, a minute or a few, mostly downloads")
        needed, free = self.space_needed(machine), self.free_bytes()
        if free < needed:
            raise SetupError(
                f"The disk is too full: the environment and its downloads take up to {needed / 1e9:.0f} GB, "
                f"and {free / 1e9:.1f} GB are free at {self.root}.",
                "Free some space, then start the same command again.",
            )
        provide_venv(machine)
        self._ownership.clear()
        made = subprocess.run(
            [sys.executable, "-m", "venv", str(self.folder)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        if made.returncode != 0:
            raise explain(made.stdout + made.stderr, folder=self.root, free_bytes=free, log=self.log)


def python_version(folder: Path) -> str:
    """The version of the Python that an environment was made with, from its `pyvenv.cfg`; empty without one."""
    try:
        lines = (folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition("=")[2].strip() for line in lines if line.split("=")[0].strip() == "version"), "")


def provide_venv(machine: Machine) -> None:
    """Debian's Python comes without the part of itself that makes environments.

    Raises:
        SetupError: it is missing and could not be installed; names the package.
    """
    if importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip"):
        return
    package = f"python{sys.version_info.major}.{sys.version_info.minor}-venv"
    if machine.debian and machine.root and apt_install(package):
        return
    raise SetupError(
        f"{sys.executable} cannot make environments: its modules venv and ensurepip are missing.",
        f"Install them (Debian, Ubuntu: `sudo apt-get install {package}`), or name another Python: "
        "SHARDBOARD_PYTHON=/path/to/python3.12",
    )
