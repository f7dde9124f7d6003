"""Coming back by itself: the agent as a service of the user who asks for it, in the form that the system has for that.

A user's unit of systemd, a launch agent of macOS, a task of Windows: none of them needs an administrator. What is
written is made by pure functions; `install` and `remove` write it and tell the system.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import plistlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import worker_agent
from worker_agent.host.home import default_home
from worker_agent.wire.errors import AgentError
from worker_agent.wire.files import write_private

NAME = "shardboard-agent"
RUNS_SYSTEMD = Path("/run/systemd/system")
"""Is there while systemd runs the system."""
LINGERING = Path("/var/lib/systemd/linger")
_CACHES = {".cache", "cache", "caches"}
_LEFT_OUT = {"--install-service": 0, "--remove-service": 0, "--wait": 0, "--home": 1, "--ready-file": 1}
"""Options that a service is not given, or is given anew, with how many values follow each."""
_TASK_SCHEMA = "http://schemas.microsoft.com/windows/2004/02/mit/task"
_TOLD_SECONDS = 30.0
_RETRY_SECONDS = 10
"""Also after an address that is not there yet: a user's services start before the network may be up."""


class ServiceProblem(AgentError):
    """The service cannot be installed or removed here. The text says why and what to do."""

    kind = "service"


@dataclass(frozen=True)
class AgentService:
    """What is to be run, and under which name the system knows it."""

    name: str
    command: tuple[str, ...]
    """An absolute path and its arguments."""
    python_path: str | None
    """PYTHONPATH, where the interpreter would not find this code otherwise."""

    @classmethod
    def of(cls, home: Path, arguments: Sequence[str]) -> AgentService:
        """For the agent with this state folder.

        Args:
            arguments: the agent's options as they were given; those that ask for the service are left out.

        Raises ServiceProblem where this Python is not here to stay.
        """
        if _CACHES & {part.lower() for part in Path(sys.prefix).parts}:
            raise ServiceProblem(
                f"The environment {sys.prefix} lies in a cache, which may be emptied at any time. Install Shardboard "
                "first (`uv tool install`, `pipx install`, or its repository), and ask for the service there."
            )
        command = (_interpreter(), "-P", "-m", "worker_agent", "--home", str(home), *_kept(arguments))
        return cls(service_name(home), command, _python_path())


def service_name(home: Path) -> str:
    """Each state folder has an agent of its own, and so a service."""
    if home.resolve() == default_home().resolve():
        return NAME
    return f"{NAME}-{hashlib.sha256(os.fsencode(home)).hexdigest()[:8]}"


def systemd_unit(service: AgentService) -> str:
    """A unit of the user's."""
    environment = "" if service.python_path is None else f"Environment={_word(f'PYTHONPATH={service.python_path}')}\n"
    return f"""[Unit]
Description=Shardboard worker agent

[Service]
Type=exec
ExecStart={" ".join(map(_word, service.command))}
{environment}UMask=0077
# The agent answers what it can, frees its stages and leaves by itself.
KillSignal=SIGTERM
TimeoutStopSec=30
Restart=on-failure
# Also where its address is not there yet: a user's services do not wait for the network.
RestartSec={_RETRY_SECONDS}
# An invitation that was refused does not get better by trying again.
RestartPreventExitStatus=3
# The system may need memory more than the agent does; the agent comes back, and the controller recovers.
OOMScoreAdjust=500

[Install]
WantedBy=default.target
"""


def launchd_plist(service: AgentService) -> bytes:
    """A launch agent of macOS."""
    content = {
        "Label": service.name,
        "ProgramArguments": list(service.command),
        "RunAtLoad": True,
        "KeepAlive": {"SuccessfulExit": False},
        "ThrottleInterval": _RETRY_SECONDS,
        "ExitTimeOut": 30,
        "Umask": 0o077,
        **({"EnvironmentVariables": {"PYTHONPATH": service.python_path}} if service.python_path is not None else {}),
    }
    return plistlib.dumps(content)


def task_xml(service: AgentService, user: str) -> bytes:
    """A task of Windows, begun when `user` logs in, without rights of an administrator.

    Raises ServiceProblem for an environment that a task cannot be given.
    """
    if service.python_path is not None:
        raise ServiceProblem(
            f"A task of Windows cannot be told where the code in {service.python_path} lies. Install Shardboard "
            "(its repository's agent.ps1 does, or pip), and ask for the service there."
        )
    ElementTree.register_namespace("", _TASK_SCHEMA)
    task = _element("Task", version="1.2")
    triggers = _within(_within(task, "Triggers"), "LogonTrigger")
    _within(triggers, "Enabled", "true")
    _within(triggers, "UserId", user)
    principal = _within(_within(task, "Principals"), "Principal", id="user")
    _within(principal, "UserId", user)
    _within(principal, "LogonType", "InteractiveToken")
    _within(principal, "RunLevel", "LeastPrivilege")
    settings = _within(task, "Settings")
    _within(settings, "MultipleInstancesPolicy", "IgnoreNew")
    _within(settings, "DisallowStartIfOnBatteries", "false")
    _within(settings, "StopIfGoingOnBatteries", "false")
    _within(settings, "ExecutionTimeLimit", "PT0S")  # for ever
    again = _within(settings, "RestartOnFailure")
    _within(again, "Interval", "PT1M")
    _within(again, "Count", "255")
    command = _within(_within(task, "Actions", Context="user"), "Exec")
    _within(command, "Command", service.command[0])
    _within(command, "Arguments", subprocess.list2cmdline(service.command[1:]))
    written: bytes = ElementTree.tostring(task, encoding="utf-16", xml_declaration=True)
    return written


class _System(NamedTuple):
    """One system's way."""

    place: Callable[[str], Path]
    """Where the file lies, by the service's name."""
    content: Callable[[AgentService], bytes]
    check: Callable[[Sequence[str]], None]
    """Raises ServiceProblem where the system has no such thing. Takes the agent's command."""
    start: Callable[[str, Path], list[list[str]]]
    """What takes the file in and starts the agent."""
    stop: Callable[[str, Path], list[list[str]]]
    forget: Callable[[str, Path], list[list[str]]]
    """What is said when the file is gone."""
    hint: Callable[[], str]


def install(service: AgentService, in_use: Callable[[], None]) -> str:
    """Write the service and start it; in place of one with the same name. Returns what there is to say.

    Args:
        in_use: raises AgentError while another agent has the state folder.

    Raises ServiceProblem; nothing stays then.
    """
    system = _this_system()
    system.check(service.command)
    place = system.place(service.name)
    content = system.content(service)
    if place.exists():
        _tell(system.stop(service.name, place), whatever=True)
    in_use()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_private(place, content)
        _tell(system.start(service.name, place))
    except OSError as error:
        raise ServiceProblem(f"The service cannot be written to {place}: {error}.") from error
    except ServiceProblem:
        place.unlink(missing_ok=True)
        _tell(system.forget(service.name, place), whatever=True)
        raise
    return f"The agent runs as the service {service.name}, written in {place}. {system.hint()}"


def remove(name: str) -> str:
    """Stop a service and forget it. Returns what there is to say. Raises ServiceProblem when there is none."""
    system = _this_system()
    place = system.place(name)
    if not place.exists():
        raise ServiceProblem(
            f"There is no service {name}: {place} is not there. Give the --home that it was installed with."
        )
    system.check(())
    _tell(system.stop(name, place), whatever=True)
    place.unlink()
    _tell(system.forget(name, place), whatever=True)
    return f"The service {name} is ended and removed. Keys and layers stay."


# --- the systems ---


def _this_system() -> _System:
    if sys.platform == "win32":
        return _WINDOWS
    return _MACOS if sys.platform == "darwin" else _SYSTEMD


def _needs_systemd(command: Sequence[str]) -> None:
    if shutil.which("systemctl") is None or not RUNS_SYSTEMD.is_dir():
        raise ServiceProblem(
            "This system is not run by systemd, and no other kind of service is known here. Have whatever starts "
            f"programs on this machine run: {' '.join(map(_shell_word, command)) or 'the agent'}"
        )


def _systemd_hint() -> str:
    user = getpass.getuser()
    log = "See: systemctl --user status, journalctl --user."
    if (LINGERING / user).exists():
        return log
    return f"It starts when you log in; to have it start with the machine: loginctl enable-linger {user}. {log}"


def _systemd_place(name: str) -> Path:
    base = os.environ.get("XDG_CONFIG_HOME")
    return (Path(base) if base else Path.home() / ".config") / "systemd" / "user" / f"{name}.service"


def _launchd_domain() -> str:
    return f"gui/{os.getuid()}" if hasattr(os, "getuid") else "gui"


def _windows_place(name: str) -> Path:
    return default_home() / f"{name}.task.xml"


def _nothing_needed(command: Sequence[str]) -> None:
    """The system has always what it takes."""


_SYSTEMD = _System(
    place=_systemd_place,
    content=lambda service: systemd_unit(service).encode(),
    check=_needs_systemd,
    start=lambda name, place: [["systemctl", "--user", "daemon-reload"],
                               ["systemctl", "--user", "enable", "--now", f"{name}.service"]],
    stop=lambda name, place: [["systemctl", "--user", "disable", "--now", f"{name}.service"]],
    forget=lambda name, place: [["systemctl", "--user", "daemon-reload"]],
    hint=_systemd_hint,
)  # fmt: skip

_MACOS = _System(
    place=lambda name: Path.home() / "Library" / "LaunchAgents" / f"{name}.plist",
    content=launchd_plist,
    check=_nothing_needed,
    start=lambda name, place: [["launchctl", "bootstrap", _launchd_domain(), str(place)]],
    stop=lambda name, place: [["launchctl", "bootout", f"{_launchd_domain()}/{name}"]],
    forget=lambda name, place: [],
    hint=lambda: "It starts when you log in.",
)

_WINDOWS = _System(
    place=_windows_place,
    content=lambda service: task_xml(service, _windows_user()),
    check=_nothing_needed,
    start=lambda name, place: [["schtasks", "/Create", "/TN", name, "/XML", str(place), "/F"],
                               ["schtasks", "/Run", "/TN", name]],
    stop=lambda name, place: [["schtasks", "/End", "/TN", name]],
    forget=lambda name, place: [["schtasks", "/Delete", "/TN", name, "/F"]],
    hint=lambda: "It starts when you log in.",
)  # fmt: skip


# --- within ---


def _kept(arguments: Sequence[str]) -> list[str]:
    kept, left_out = [], 0
    for argument in arguments:
        if left_out:
            left_out -= 1
            continue
        name, equals, _ = argument.partition("=")
        if name in _LEFT_OUT:
            left_out = 0 if equals else _LEFT_OUT[name]
            continue
        kept.append(argument)
    return kept


def _interpreter() -> str:
    """On Windows the one that opens no console."""
    quiet = Path(sys.executable).with_name("pythonw.exe")
    return str(quiet) if sys.platform == "win32" and quiet.exists() else sys.executable


def _python_path() -> str | None:
    """Where this code lies, unless the interpreter finds it there by itself."""
    here = str(Path(worker_agent.__file__).resolve().parent.parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    program = "import pathlib, worker_agent; print(pathlib.Path(worker_agent.__file__).resolve().parent.parent)"
    found = subprocess.run(
        [sys.executable, "-P", "-c", program], env=environment, cwd=Path(sys.prefix), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    return None if found.stdout.strip() == here else here


def _word(text: str) -> str:
    """One word of a unit's line."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or not text or any(c.isspace() or c in "';#" for c in text) else text


def _shell_word(text: str) -> str:
    return text if text and all(c.isalnum() or c in "@%+=:,./-_" for c in text) else f"'{text}'"


def _windows_user() -> str:
    domain = os.environ.get("USERDOMAIN")
    return f"{domain}\\{getpass.getuser()}" if domain else getpass.getuser()


def _element(tag: str, **attributes: str) -> ElementTree.Element:
    return ElementTree.Element(f"{{{_TASK_SCHEMA}}}{tag}", attributes)


def _within(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, f"{{{_TASK_SCHEMA}}}{tag}", attributes)
    child.text = text
    return child


def _tell(commands: Sequence[Sequence[str]], *, whatever: bool = False) -> None:
    """Run the system's own commands one by one. Raises ServiceProblem, unless it does not matter what they do."""
    for command in commands:
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", timeout=_TOLD_SECONDS, check=False,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
            said, failed = (done.stderr or done.stdout).strip(), done.returncode != 0
        except (OSError, subprocess.TimeoutExpired) as error:
            said, failed = str(error), True
        if failed and not whatever:
            raise ServiceProblem(
                f"`{' '.join(command)}` failed: {said[:1000]}. Nothing was installed. "
                "Ask for it as the user whose service it is to be, logged in (not through su or sudo)."
            )
