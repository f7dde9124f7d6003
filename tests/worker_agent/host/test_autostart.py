"""The agent as a service: what is written for each system, judged by that system's own readers where they are here."""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.worker_agent.agent_process import until
from worker_agent.__main__ import run
from worker_agent.host import autostart
from worker_agent.host.autostart import AgentService, ServiceProblem, launchd_plist, systemd_unit, task_xml
from worker_agent.wire.keys import KeyPair, TrustedControllers

ANALYZE = shutil.which("systemd-analyze")
linux = pytest.mark.skipif(sys.platform != "linux", reason="systemd is Linux's")
AWKWARD = ("/opt/a b/python", "-P", "-m", "worker_agent", "--trust=a$b%c'd\"e;\\", "--name", "rack 2")


@linux
@pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed (Debian: apt-get install systemd)")
def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    service = AgentService(autostart.NAME, (sys.executable, *AWKWARD[1:]), "/opt/my code")
    unit = tmp_path / f"{service.name}.service"
    unit.write_text(systemd_unit(service))

    def judged() -> str:
        command, environment = (
            [str(ANALYZE), "verify", "--user", unit],
            {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)},
        )
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
        return "\n".join(line for line in done.stderr.splitlines() if "shardboard" in line)

    assert judged() == ""
    unit.write_text(unit.read_text().replace("Type=exec", "Type=sometimes"))
    assert "sometimes" in judged(), "it would have been found"


def test_macos_and_windows_read_back_the_command_word_by_word() -> None:
    service = AgentService("shardboard-agent-1234", AWKWARD, None)
    read = plistlib.loads(launchd_plist(service))
    assert (read["Label"], tuple(read["ProgramArguments"])) == (service.name, AWKWARD)
    assert read["RunAtLoad"] and read["KeepAlive"] == {"SuccessfulExit": False}
    with_path = AgentService(service.name, AWKWARD, "/code")
    assert plistlib.loads(launchd_plist(with_path))["EnvironmentVariables"] == {"PYTHONPATH": "/code"}

    task = ElementTree.fromstring(task_xml(service, "RACK\\ada & co"))
    found = {element.tag.rpartition("}")[2]: element.text for element in task.iter()}
    assert found["Command"] == AWKWARD[0] and found["UserId"] == "RACK\\ada & co"
    assert found["Arguments"] == subprocess.list2cmdline(AWKWARD[1:])
    assert (found["ExecutionTimeLimit"], found["RunLevel"]) == ("PT0S", "LeastPrivilege")
    with pytest.raises(ServiceProblem, match="cannot be told where the code"):
        task_xml(with_path, "ada")


def test_a_service_is_given_the_options_but_for_those_that_asked_for_it(tmp_path: Path) -> None:
    given = ["--install-service", "--home", "elsewhere", "--ready-file=x", "--threads", "2", "--trust=--home", "--wait"]
    service = AgentService.of(tmp_path, given)
    assert service.command[1:] == (
        "-P",
        "-m",
        "worker_agent",
        "--home",
        str(tmp_path),
        "--threads",
        "2",
        "--trust=--home",
    )
    assert service.name != autostart.NAME and service.name == AgentService.of(tmp_path, []).name
    assert service.name != AgentService.of(tmp_path / "other", []).name, "each folder has an agent of its own"


def test_an_environment_that_may_vanish_gets_no_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".cache" / "uv" / "archive-v0" / "abc"))
    with pytest.raises(ServiceProblem, match="lies in a cache"):
        AgentService.of(tmp_path, [])


@linux
def test_where_the_system_does_not_take_it_nothing_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    service = AgentService("shardboard-agent-test", ("/bin/true",), None)
    monkeypatch.setattr(autostart, "RUNS_SYSTEMD", tmp_path / "absent")
    with pytest.raises(ServiceProblem, match=r"not run by systemd.*/bin/true"):
        autostart.install(service, lambda: None)

    programs, told = tmp_path / "bin", tmp_path / "told"
    programs.mkdir()
    (programs / "systemctl").write_text(
        f'#!/bin/sh\necho "$@" >> {told}\n[ "$2" != enable ] || [ ! -e {programs}/no ]\n'
    )
    (programs / "systemctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(autostart, "RUNS_SYSTEMD", tmp_path)
    place = tmp_path / "config" / "systemd" / "user" / "shardboard-agent-test.service"
    (programs / "no").touch()
    with pytest.raises(ServiceProblem, match=r"enable --now shardboard-agent-test\.service` failed"):
        autostart.install(service, lambda: None)
    assert not place.exists()

    (programs / "no").unlink()
    assert str(place) in autostart.install(service, lambda: None)
    assert place.stat().st_mode & 0o077 == 0, "options may hold an invitation"
    assert "removed" in autostart.remove(service.name)
    assert not place.exists() and "disable --now" in told.read_text()
    with pytest.raises(ServiceProblem, match="There is no service"):
        autostart.remove(service.name)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--install-service"], "--install-service: no controller is trusted yet"),
        (["--remove-service"], "There is no service shardboard-agent-"),
        (["--install-service", "--remove-service"], "not allowed with argument"),
    ],
)
def test_a_service_that_cannot_be_is_refused_with_what_to_do(
    options: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # and back, for the agent goes to its home
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    try:
        status = run(["--home", str(tmp_path / "home"), *options])
    except SystemExit as ended:  # as argparse does
        status = int(str(ended.code))
    assert status == 2 and text in capsys.readouterr().err


@linux
def test_the_units_own_line_starts_the_agent_where_its_controller_knows_it(tmp_path: Path) -> None:
    """Without --listen: it listens where it was taken in, as after a reboot."""
    home, ready = tmp_path / "my home", tmp_path / "ready.json"
    controller = KeyPair.make().public
    TrustedControllers(home / "controllers").add(controller)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (home / "address").write_text(f"127.0.0.1:{port}\n")
    unit = systemd_unit(AgentService.of(home, ["--name", "rack 2"]))
    [line] = [line for line in unit.splitlines() if line.startswith("ExecStart=")]
    words = [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(line.removeprefix("ExecStart="))]
    environment = dict(os.environ)
    for text in (line for line in unit.splitlines() if line.startswith("Environment=")):
        name, _, value = shlex.split(text.removeprefix("Environment="))[0].partition("=")
        environment[name] = value
    process = subprocess.Popen([*words, "--ready-file", str(ready)], env=environment, cwd=tmp_path)
    try:
        until(lambda: ready.exists() or process.poll() is not None, 60.0)
        assert json.loads(ready.read_text())["address"] == f"tcp://127.0.0.1:{port}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)
