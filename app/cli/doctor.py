"""`doctor`: whether this machine has what Shardboard needs, and what to do where it has not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import psutil
import typer

from app.cli.options import Json
from app.cli.output import note, print_json, print_table, progress_shown
from app.cli.session import open_controller, origin, registry_location
from app.cluster.link_findings import LinkFinding
from app.errors import ShardboardError
from app.figures import data_rate, duration, size_text
from app.paths import Home
from app.registry import Registry
from worker_agent import __version__

OLDEST_PYTHON = (3, 11)
PACKAGES = (
    "blake3",
    "huggingface_hub",
    "jinja2",
    "msgspec",
    "numpy",
    "peewee",
    "platformdirs",
    "psutil",
    "pyzmq",
    "rich",
    "safetensors",
    "tokenizers",
    "torch",
    "transformers",
    "typer",
)
LOW_DISK = 5 * 10**9
LOW_MEMORY = 10**9


class Verdict(StrEnum):
    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""


def register(app: typer.Typer) -> None:
    app.command()(doctor)


def doctor(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Also try whether an agent could use this port.")
    ] = None,
    links: Annotated[
        bool, typer.Option("--links", help="Also measure the links between all nodes that answer, in both directions.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Check environment, registry, keys, disk, memory, ports and local agents. Ends with 1 when something failed."""
    checks = list(examine(Home.find(), port))
    findings = _measured_links(as_json) if links else None
    if as_json:
        print_json(checks if findings is None else {"checks": checks, "links": findings})
    else:
        print_table(
            f"Shardboard {__version__}",
            ("", "What", "Found", "What to do"),
            [(check.verdict.value, check.name, check.found, check.advice) for check in checks],
            "",
        )
    if findings is not None and not as_json:
        _show_links(findings)
    broken = any(not finding.link.is_measured for finding in findings or ())
    if broken or any(check.verdict is Verdict.FAILED for check in checks):
        raise typer.Exit(1)


def _measured_links(quiet: bool) -> list[LinkFinding]:
    """Of the links that were measured just now."""
    with open_controller(monitor=False) as session, progress_shown(quiet) as progress:
        records = session.run(session.controller.measure_links(on_progress=progress.job, origin=origin()))
        new = {record.id for record in records}
        return [finding for finding in session.run(session.controller.link_findings()) if finding.link.id in new]


def _show_links(findings: list[LinkFinding]) -> None:
    print_table(
        "Links between agents",
        ("From", "To", "Round trip", "Jitter", "Bandwidth", "Clock ahead", "What is wrong", "What to do"),
        [
            (
                f"{finding.source} ({finding.link.source_id})",
                f"{finding.target} ({finding.link.target_id})",
                duration(finding.link.rtt),
                duration(finding.link.jitter),
                None if finding.link.bytes_per_second is None else data_rate(finding.link.bytes_per_second),
                None if finding.link.clock_offset is None else f"{finding.link.clock_offset * 1e3:+.1f} ms",
                finding.problem,
                finding.advice,
            )
            for finding in findings
        ],
        "",
    )
    for finding in findings:
        if finding.drift:
            note(f"{finding.source} to {finding.target}: {finding.drift}")


def examine(home: Home, port: int | None = None) -> Iterator[Check]:
    """Look at everything; changes nothing, but for bringing an old registry up to date."""
    yield _python()
    yield from _packages()
    yield _home(home)
    yield from _keys(home)
    yield from _disk(home)
    yield _memory()
    yield _port(0)
    if port is not None:
        yield _port(port)
    yield from _registry(home)


def _python() -> Check:
    found = f"{platform.python_version()} on {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    if sys.version_info < OLDEST_PYTHON:
        return Check("Python", Verdict.FAILED, found, "Install Python 3.11 or newer.")
    return Check("Python", Verdict.OK, found)


def _packages() -> Iterator[Check]:
    """Versions as installed; importing torch alone would take a second and 300 MB."""
    versions = {name: _version(name) for name in PACKAGES}
    missing = [name for name, version in versions.items() if version is None]
    if missing:
        yield Check("Packages", Verdict.FAILED, f"missing: {', '.join(missing)}", "Run ./run once; it installs them.")
    present = ", ".join(f"{name} {version}" for name, version in versions.items() if version is not None)
    if present:
        yield Check("Packages", Verdict.OK, present)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _home(home: Home) -> Check:
    if not home.root.exists():
        return Check("Home", Verdict.OK, f"{home.root} (not made yet)")
    if not os.access(home.root, os.W_OK):
        return Check(
            "Home", Verdict.FAILED, f"{home.root} cannot be written to", "Correct its owner, or set SHARDBOARD_HOME."
        )
    return Check("Home", Verdict.OK, str(home.root))


def _keys(home: Home) -> Iterator[Check]:
    files = sorted(
        path
        for folder in (home.keys, home.agents)
        if folder.is_dir()
        for path in folder.rglob("*.key")
        if path.is_file()
    )
    if not files:
        yield Check("Keys", Verdict.OK, "none yet; they are made when they are needed")
        return
    loose = [path for path in files if os.name != "nt" and stat.S_IMODE(path.stat().st_mode) & 0o077]
    for path in loose:
        mode = stat.S_IMODE(path.stat().st_mode)
        yield Check("Keys", Verdict.FAILED, f"others may read {path} (mode {mode:04o})", f"chmod 600 {path}")
    if not loose:
        yield Check("Keys", Verdict.OK, f"{len(files)}, readable by you alone")


def _disk(home: Home) -> Iterator[Check]:
    for name, folder in (("Disk, state", home.root), ("Disk, models", home.models)):
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        low = free < LOW_DISK
        advice = "Free some space, or set MODEL_CACHE_DIR to another disk." if low else ""
        yield Check(name, Verdict.WARNING if low else Verdict.OK, f"{size_text(free)} free at {folder}", advice)


def _memory() -> Check:
    memory = psutil.virtual_memory()
    low = memory.available < LOW_MEMORY
    found = f"{size_text(memory.available)} free of {size_text(memory.total)}"
    return Check("Memory", Verdict.WARNING if low else Verdict.OK, found, "Close other programs." if low else "")


def _port(port: int) -> Check:
    name = f"Port {port}" if port else "Ports"
    with socket.socket() as listener:
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(1)
        except OSError as error:
            return Check(name, Verdict.FAILED, f"cannot be listened on: {error.strerror}", "Take another port.")
        return Check(name, Verdict.OK, "an agent can listen on this machine")


def _registry(home: Home) -> Iterator[Check]:
    location = registry_location(home)
    if isinstance(location, Path) and not location.exists():
        yield Check("Registry", Verdict.OK, f"{location} (not made yet)")
        return
    try:
        with Registry.open(location, lock=False) as registry:
            nodes = registry.nodes.list()
            yield Check("Registry", Verdict.OK, f"{registry.location}: {len(nodes)} nodes")
            for node in nodes:
                if node.local_pid is not None:
                    yield _agent(node.hostname, node.id, node.port, node.local_pid, home.agents)
    except ShardboardError as error:
        yield Check("Registry", Verdict.FAILED, error.message, error.advice)


def _agent(name: str, node: int, port: int, pid: int, logs: Path) -> Check:
    """An agent that was started here: whether its process is there and its port answers."""
    title = f"Agent {name} (node {node})"
    if not _is_agent(pid):
        advice = f"Take it out with: node remove {node}; why it ended may stand in its agent.log under {logs}."
        return Check(title, Verdict.WARNING, f"process {pid} is gone", advice)
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2):
            return Check(title, Verdict.OK, f"process {pid}, port {port}")
    except OSError as error:
        reason = error.strerror or str(error)
        return Check(title, Verdict.WARNING, f"process {pid} runs, port {port}: {reason}", f"node remove {node}")


def _is_agent(pid: int) -> bool:
    """Whether the process lives and is an agent, not another program that got the number since."""
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "worker_agent" in process.cmdline()
    except psutil.Error:
        return False
