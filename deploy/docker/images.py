"""Builds an image as a folder: a Dockerfile's steps carried out in a chroot, on a Debian made by debootstrap."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dockerfile import BadDockerfile, Config, Instruction, Stage, read

BASE = "debian:bookworm-slim"
"""The one base that debootstrap stands in for here."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True)
class Surroundings:
    """What the build gets of this machine: what a container engine's own configuration would give it."""

    binds: tuple[tuple[Path, str], ...] = ()
    """Host path, place in the chroot; for RUN only."""
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Image:
    root: Path
    config: Config

    def ids(self) -> tuple[int, int]:
        """User and group of its user."""
        for line in (self.root / "etc" / "passwd").read_text().splitlines():
            name, _, user, group, *_ = line.split(":")
            if name == self.config.user:
                return int(user), int(group)
        raise BadDockerfile(f"the user {self.config.user} is not in the image")


def debootstrap(folder: Path, mirror: str) -> None:
    """A plain Debian, once."""
    if (folder / "etc" / "debian_version").exists():
        return
    say(f"== debootstrap into {folder}")
    checked("debootstrap", "--variant=minbase", "bookworm", str(folder), *([mirror] if mirror else []))


def build(
    dockerfile: Path,
    context: Path,
    base: Path,
    work: Path,
    arguments: Mapping[str, str],
    surroundings: Surroundings,
) -> Image:
    """Carry out a Dockerfile. Raises CalledProcessError for a step that fails, BadDockerfile."""
    made: dict[str, Path] = {}
    config = Config()
    root = base
    for number, stage in enumerate(read(dockerfile.read_text(encoding="utf-8"))):
        if stage.base != BASE:
            raise BadDockerfile(f"{dockerfile}: only {BASE} can be stood in for, not {stage.base}")
        root = work / (stage.name or f"stage{number}")
        if root.exists():
            shutil.rmtree(root)
        root.parent.mkdir(parents=True, exist_ok=True)
        checked("cp", "-a", "--reflink=auto", str(base), str(root))
        config = _run_stage(stage, root, context, made, arguments, surroundings)
        made[stage.name] = root
    return Image(root, config)


def _run_stage(
    stage: Stage,
    root: Path,
    context: Path,
    made: Mapping[str, Path],
    arguments: Mapping[str, str],
    surroundings: Surroundings,
) -> Config:
    config = Config()
    given: dict[str, str] = {}
    for step in stage.instructions:
        say(f"-- {step.name} {step.text}")
        match step.name:
            case "ARG":
                name, equals, default = step.words[0].partition("=")
                if name in arguments:
                    given[name] = arguments[name]
                elif equals:
                    given[name] = default
            case "RUN":
                environment = {"PATH": PATH, **surroundings.environment, **given, **config.environment}
                _run(step, root, environment, surroundings)
            case "COPY":
                _copy(step, root, context, made)
            case "WORKDIR":
                (root / step.text.lstrip("/")).mkdir(parents=True, exist_ok=True)
        config = config.after(step)
    return config


def _run(step: Instruction, root: Path, environment: Mapping[str, str], surroundings: Surroundings) -> None:
    command = step.words if step.is_exec_form else ["/bin/sh", "-c", step.text]
    with _mounted(root, surroundings):
        words = [f"{name}={value}" for name, value in environment.items()]
        checked("chroot", str(root), "env", "-i", *words, *command)


def _copy(step: Instruction, root: Path, context: Path, made: Mapping[str, Path]) -> None:
    words = step.words
    source = context
    if (match := re.fullmatch(r"--from=(.+)", words[0])) is not None:
        source, words = made[match[1]], words[1:]
    *sources, target = words
    place = root / target.lstrip("/")
    for name in sources:
        found = source / name.lstrip("/")
        if not found.exists():
            raise BadDockerfile(f"line {step.line}: there is no {name}")
        if found.is_dir():  # a folder's content, as COPY has it
            place.mkdir(parents=True, exist_ok=True)
            checked("cp", "-a", f"{found}/.", str(place))
        else:
            place.mkdir(parents=True, exist_ok=True) if target.endswith("/") else place.parent.mkdir(parents=True)
            checked("cp", "-a", str(found), str(place))


@contextlib.contextmanager
def _mounted(root: Path, surroundings: Surroundings) -> Iterator[None]:
    """What RUN needs of the machine: devices, processes, names of the network, and what was bound."""
    resolver = root / "etc" / "resolv.conf"
    kept = resolver.read_bytes() if resolver.exists() else b""
    shutil.copy("/etc/resolv.conf", resolver)
    mounted: list[Path] = []
    binds = [(Path("/dev"), "dev"), (Path("/proc"), "proc"), *surroundings.binds]
    try:
        for source, place in binds:
            target = root / place.lstrip("/")
            if not target.exists():
                target.mkdir(parents=True) if source.is_dir() else _empty_file(target)
            checked("mount", "--bind", str(source), str(target))
            mounted.append(target)
            if (source, place) in surroundings.binds:
                # A step of the image may well write there: update-ca-certificates does. It is the machine's own.
                checked("mount", "-o", "remount,bind,ro", str(target))
        yield
    finally:
        for target in reversed(mounted):
            checked("umount", "--lazy", str(target))
        resolver.write_bytes(kept)


def _empty_file(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


def checked(*command: str) -> None:
    subprocess.run(command, check=True)


def output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def say(text: str) -> None:
    print(text, flush=True)


def strings(pairs: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE texts."""
    return {name: value for name, _, value in (pair.partition("=") for pair in pairs)}
