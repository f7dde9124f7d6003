"""`serve` as a service manager and other commands see it: processes of their own, real signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.cli.programs import CommandLine, Service, make_tiny_model, runs

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals as a service manager of Unix sends them")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CommandLine, Path]]:
    """A home with a tiny model over two agents."""
    home = tmp_path_factory.mktemp("home")
    commands = CommandLine(home)
    folder = make_tiny_model(tmp_path_factory.mktemp("lasting"), context=32768)  # answers outlast whatever is done
    commands.run("model", "add", str(folder), "--name", "tiny")
    nodes = commands.json("node", "local", "2")
    commands.run("deploy", "tiny", "--layers", "0-1,2", "--context", "32768", "--kv-tokens", "32768")
    yield commands, home
    for node in nodes:
        commands.run("node", "remove", str(node["id"]))
    for node in nodes:
        assert not runs(node["local_pid"])


@pytest.fixture
def service(place: tuple[CommandLine, Path]) -> Iterator[Service]:
    service = Service(*place)
    service.wait_for("Serving at ")
    for status in ("pending", "processing"):  # what the last one left, which this one goes on with
        with urllib.request.urlopen(f"{service.url}/shard/api/inference/recent/?status={status}", timeout=60) as found:
            for left in json.load(found)["requests"]:
                cancel(service, left["id"])
    yield service
    if service.process.poll() is None:
        service.process.kill()
        service.process.wait()


def cancel(service: Service, request: int) -> dict[str, Any]:
    """The request as it was when it ended."""
    url = f"{service.url}/shard/api/inference/cancel/{request}/"
    asked = urllib.request.Request(url, b"{}", {"Content-Type": "application/json"}, method="POST")
    with urllib.request.urlopen(asked, timeout=60) as answer:
        told: dict[str, Any] = json.load(answer)
    return told


LONG = ("generate", "tiny", "Hello", "--max-tokens", "600", "--ignore-eos")


def test_commands_go_to_the_controller_that_runs(place: tuple[CommandLine, Path], service: Service) -> None:
    commands, _ = place
    answer = commands.json("generate", "tiny", "Hello", "--max-tokens", "8", "--ignore-eos")
    assert (answer["status"], answer["completion_tokens"], answer["origin"]["via"]) == ("completed", 8, "command")
    with urllib.request.urlopen(f"{service.url}/v1/models", timeout=10) as found:
        assert [model["id"] for model in json.load(found)["data"]] == ["tiny"]
    # Another service in the same home is told who has it.
    refused = Service(commands, place[1])
    assert refused.process.wait(60) == 1
    assert str(service.process.pid) in refused.said.read_text()


def test_a_term_signal_lets_answers_come_to_their_end(place: tuple[CommandLine, Path], service: Service) -> None:
    commands, _ = place
    asking = commands.start(*LONG, "--json")
    wait_for_request(commands)
    assert service.end() == 0
    out, errors = asking.communicate(timeout=60)
    assert asking.returncode == 0, errors
    assert json.loads(out)["completion_tokens"] == 600
    assert "Waiting for 1 request" in service.said.read_text() and "Ended." in service.said.read_text()


def test_a_deadline_and_a_second_signal_cut_the_waiting_short(place: tuple[CommandLine, Path]) -> None:
    commands, home = place
    for signals, options in ((1, ("--drain-seconds", "0")), (2, ("--drain-seconds", "50"))):
        service = Service(commands, home, *options)
        service.wait_for("Serving at ")
        asking = commands.start("generate", "tiny", "Hello", "--max-tokens", "30000", "--ignore-eos", "--json")
        wait_for_request(commands)
        began = time.monotonic()
        for _ in range(signals):
            service.process.send_signal(signal.SIGTERM)
            time.sleep(0.5)
        assert service.process.wait(30) == 0
        assert time.monotonic() - began < 20
        asking.communicate(timeout=30)
        assert asking.returncode == 130
        record = commands.json("request", "list", "--limit", "1")[0]
        assert record["status"] == "cancelled" and 0 < record["completion_tokens"] < 30000


def test_an_interrupted_command_cancels_its_request_there(place: tuple[CommandLine, Path], service: Service) -> None:
    commands, _ = place
    asking = commands.start("generate", "tiny", "Hello", "--max-tokens", "30000", "--ignore-eos")
    wait_for_request(commands)
    asking.send_signal(signal.SIGINT)
    asking.communicate(timeout=30)
    assert asking.returncode == 130
    record = commands.json("request", "list", "--limit", "1")[0]
    assert record["status"] == "cancelled" and record["completion_tokens"] > 0
    assert service.end() == 0


def test_a_service_that_is_killed_leaves_nothing_in_the_way(place: tuple[CommandLine, Path], service: Service) -> None:
    commands, home = place
    service.process.kill()
    service.process.wait()
    assert (home / "control.json").exists()
    answer = commands.json("generate", "tiny", "Hello", "--max-tokens", "4", "--ignore-eos")
    assert answer["completion_tokens"] == 4


def test_a_command_does_not_outlive_the_service_that_is_killed_under_it(
    place: tuple[CommandLine, Path], service: Service
) -> None:
    commands, _ = place
    asking = commands.start("generate", "tiny", "Hello", "--max-tokens", "30000", "--ignore-eos")
    wait_for_request(commands)
    service.process.kill()
    service.process.wait()
    began = time.monotonic()
    _, errors = asking.communicate(timeout=40)
    assert asking.returncode == 1 and f"process {service.process.pid}) ended" in errors
    assert time.monotonic() - began < 15
    # A command that opens a controller for a moment leaves what was under way; one that stays goes on with it.
    assert commands.json("node", "list")
    (left,) = commands.json("request", "list", "--limit", "1")
    assert left["status"] == "processing"
    again = Service(*place)
    told = cancel(again, left["id"])
    assert told["status"] == "cancelled" and told["completion_tokens"] >= left["completion_tokens"] and told["text"]
    assert again.end() == 0


def test_a_taken_port_and_an_open_address_without_a_key_are_refused(place: tuple[CommandLine, Path]) -> None:
    commands, _ = place
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert port in commands.run("serve", "--port", port, code=2)
    assert "key add" in commands.run("serve", "--port", "0", "--host", "0.0.0.0", code=2)


def test_systemd_is_told_that_it_is_ready_and_that_it_ends(place: tuple[CommandLine, Path], tmp_path: Path) -> None:
    _, home = place
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(60)
        told = CommandLine(home)
        told.environment |= {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "200000"}
        service = Service(told, home, "--no-http")
        states = [manager.recv(100), manager.recv(100), manager.recv(100)]
        assert states == [b"READY=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        assert service.end() == 0
        while (state := manager.recv(100)) == b"WATCHDOG=1":
            pass
        assert state == b"STOPPING=1"
    assert not psutil.pid_exists(service.process.pid)


def test_keys_and_settings_by_command(place: tuple[CommandLine, Path], service: Service) -> None:
    commands, home = place
    key = commands.json("key", "add", "laptop")["key"]
    assert key.startswith("sb-") and key not in (home / "registry.sqlite3").read_bytes().decode("latin-1")
    assert [each["name"] for each in commands.json("key", "list")] == ["laptop"]
    commands.run("key", "remove", "laptop")
    assert commands.json("key", "list") == []
    commands.run("settings", "set", "records.keep_text=no", "server.port=8123")
    assert commands.json("settings", "show")["server"]["port"] == 8123
    # The controller that runs follows at once.
    hidden = commands.json("generate", "tiny", "secret", "--max-tokens", "2", "--ignore-eos")
    assert commands.json("request", "show", str(hidden["id"]))["prompt"] == ""
    commands.run("settings", "set", "records.keep_text=yes")
    assert "records.keep_tex" in commands.run("settings", "set", "records.keep_tex=no", code=2)
    assert "server.port" in commands.run("settings", "set", "server.port=many", code=2)


def test_a_unit_for_systemd_names_this_installation(place: tuple[CommandLine, Path]) -> None:
    unit = place[0].run("serve", "--systemd", "--port", "8000", "--drain-seconds", "5")
    assert f"ExecStart={sys.executable} " in unit and "serve --drain-seconds 5 --port 8000 $SERVE_OPTIONS" in unit
    assert "TimeoutStopSec=35" in unit and "/opt/shardboard" not in unit


def wait_for_request(commands: CommandLine) -> None:
    """Until the newest request is being answered."""
    deadline = time.monotonic() + 30
    while True:
        newest = commands.json("request", "list", "--limit", "1")
        if newest and newest[0]["status"] == "processing" and newest[0]["completion_tokens"]:
            return
        assert time.monotonic() < deadline, newest
