"""Dockerfiles as data: just the instructions that ours use, and an error for any other."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field, replace

FILES = frozenset(("ARG", "COPY", "FROM", "RUN"))
RUNNING = frozenset(("CMD", "ENTRYPOINT", "ENV", "EXPOSE", "HEALTHCHECK", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"))


class BadDockerfile(ValueError):
    """Something that cannot be read, by its line."""


@dataclass(frozen=True)
class Instruction:
    line: int
    name: str
    text: str

    @property
    def words(self) -> list[str]:
        """The exec form's words, or the plain ones."""
        if self.text.startswith("["):
            return [str(word) for word in json.loads(self.text)]
        return shlex.split(self.text)

    @property
    def is_exec_form(self) -> bool:
        return self.text.startswith("[")


@dataclass(frozen=True)
class Stage:
    """From one FROM to the next."""

    base: str
    name: str
    instructions: tuple[Instruction, ...]


@dataclass(frozen=True)
class Config:
    """What an image says of how it runs."""

    environment: dict[str, str] = field(default_factory=dict)
    user: str = "root"
    folder: str = "/"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    health: tuple[str, ...] = ()
    stop_signal: str = "SIGTERM"

    def after(self, step: Instruction) -> Config:
        """This, as an instruction changes it; itself for those that change files."""
        match step.name:
            case "ENV":
                pairs = [word.partition("=") for word in step.words]
                return replace(self, environment=self.environment | {name: value for name, _, value in pairs})
            case "USER":
                return replace(self, user=step.text)
            case "WORKDIR":
                return replace(self, folder=step.text)
            case "ENTRYPOINT":
                return replace(self, entrypoint=_exec_form(step))
            case "CMD":
                return replace(self, command=_exec_form(step))
            case "VOLUME":
                return replace(self, volumes=(*self.volumes, *step.words))
            case "EXPOSE":
                return replace(self, ports=(*self.ports, *map(int, step.words)))
            case "STOPSIGNAL":
                return replace(self, stop_signal=step.text)
            case "HEALTHCHECK":
                _, _, command = step.text.partition("CMD ")
                return replace(self, health=_exec_form(replace(step, text=command)))
            case _:
                return self


def read(text: str) -> tuple[Stage, ...]:
    """The stages of a Dockerfile. Raises BadDockerfile."""
    stages: list[Stage] = []
    for step in _instructions(text):
        if step.name == "FROM":
            base, *named = step.words
            name = named[1] if len(named) == 2 and named[0].upper() == "AS" else ""
            stages.append(Stage(base, name, ()))
        elif not stages:
            raise BadDockerfile(f"line {step.line}: {step.name} stands before FROM")
        else:
            stages[-1] = replace(stages[-1], instructions=(*stages[-1].instructions, step))
    if not stages:
        raise BadDockerfile("there is no FROM")
    return tuple(stages)


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    pending, began = "", 0
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not pending):
            continue
        began = began if pending else number
        if line.endswith("\\"):
            pending += line[:-1] + " "
            continue
        whole, pending = (pending + line).strip(), ""
        match = re.fullmatch(r"([A-Za-z]+)\s+(.+)", whole)
        if match is None or match[1].upper() not in FILES | RUNNING:
            raise BadDockerfile(f"line {began}: {whole}")
        found.append(Instruction(began, match[1].upper(), match[2]))
    if pending:
        raise BadDockerfile(f"line {began}: it is not ended")
    return found


def _exec_form(step: Instruction) -> tuple[str, ...]:
    if not step.is_exec_form:
        raise BadDockerfile(f"line {step.line}: {step.name} runs in a shell, which keeps signals from the program")
    return tuple(step.words)
