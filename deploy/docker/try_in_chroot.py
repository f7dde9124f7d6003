"""Tries Dockerfiles and compose.yaml where there is no container engine: as root on Debian, some minutes.

    python deploy/docker/try_in_chroot.py --work /var/tmp/shardboard-try --model FOLDER

Builds both images step by step in chroots (debootstrap makes the base), then runs the very lines of compose.yaml's
header with a `docker` of its own on the PATH, which knows as much as they need. `--model` is a folder that stands for
the model of the Hub. Exit code 0: images were built, services got healthy, agents joined, a question was answered over
two agents by command and over HTTP, and all ended on SIGTERM.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml
from dockerfile import Config
from images import Image, Surroundings, build, checked, debootstrap, output, say, strings
from services import NETWORK, Service, close_network, open_network, variables_of

HERE = Path(__file__).resolve().parent
HUB_MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
SHIM = "SHARDBOARD_TRY"
"""Set for the `docker` that the header's lines find: the work folder."""


def main() -> int:
    if SHIM in os.environ:
        return Compose(Path(os.environ[SHIM])).docker(sys.argv[1:])
    read = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    read.add_argument("--work", type=Path, required=True, help="a folder with 8 GB to spare, on no noexec file system")
    read.add_argument("--model", type=Path, required=True, help="a model's folder, in the place of the Hub's")
    read.add_argument("--mirror", default="", help="Debian's, for debootstrap [default: its own choice]")
    read.add_argument("--bind", action="append", default=[], metavar="PATH[:PLACE]", help="for the build's RUN steps")
    read.add_argument("--env", action="append", default=[], metavar="NAME=VALUE", help="the same: such as PIP_CERT=…")
    read.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    read.add_argument("--built", action="store_true", help="take the images of the last time")
    given = read.parse_args()
    work: Path = given.work.resolve()
    context = work / "context"
    if not given.built:
        _take_repository(context)
        debootstrap(work / "base", given.mirror)
    compose = Compose(work)
    try:
        if not given.built:
            compose.build(_surroundings(given.bind, given.env), strings(given.build_arg))
        shutil.rmtree(work / "volumes", ignore_errors=True)
        compose.run_header(given.model.resolve())
    finally:
        compose.clear_away()
    say("== all of it works")
    return 0


class Compose:
    """As much of `docker compose` as compose.yaml's header uses."""

    def __init__(self, work: Path) -> None:
        self._work = work
        self._folder = work / "context" / "deploy" / "docker"
        self._file: dict[str, Any] = yaml.safe_load((self._folder / "compose.yaml").read_text(encoding="utf-8"))
        self._names = {name: f"{NETWORK}.{10 + number}" for number, name in enumerate(self._file["services"], 1)}

    # --- images ---

    def build(self, surroundings: Surroundings, arguments: Mapping[str, str]) -> None:
        made: set[str] = set()
        for settings in self._file["services"].values():
            name, how = settings["image"], settings["build"]
            if name in made:
                continue
            say(f"== building {name}")
            context = (self._folder / how["context"]).resolve()
            # Its `args` without values are passed on from the environment; here they are given by --build-arg.
            unknown = set(arguments) - {*how["args"], "TORCH", "EXTRAS"}
            if unknown:
                raise SystemExit(f"{name} has no build argument {', '.join(sorted(unknown))}")
            image = build(
                context / how["dockerfile"], context, self._work / "base", self._work / "images" / name, arguments,
                surroundings,
            )  # fmt: skip
            (self._work / "images" / f"{name}.json").write_bytes(msgspec.json.encode((image.root.name, image.config)))
            say(f"   {name}: {output('du', '-shx', str(image.root)).split()[0]}")
            made.add(name)

    def _service(self, name: str) -> Service:
        settings = self._file["services"][name]
        kept = (self._work / "images" / f"{settings['image']}.json").read_bytes()
        root, config = msgspec.json.decode(kept, type=tuple[str, Config])
        image = Image(self._work / "images" / settings["image"] / root, config)
        return Service(name, image, settings, self._names[name], self._work)

    # --- the commands ---

    def docker(self, arguments: Sequence[str]) -> int:
        match list(arguments):
            case ["compose", "run", "--rm", name, *words]:
                service = self._prepared(name)
                return subprocess.call(service.command([*service.config.entrypoint, *words]))
            case ["compose", "up", "-d", *names]:
                for name in names:
                    self._prepared(name).start(variables_of(self._folder))
                return 0
            case ["compose", "exec", "-T", name, *words] | ["compose", "exec", name, *words]:
                return subprocess.call(self._prepared(name).command(words))
            case ["compose", "build"]:
                return 0  # done before
            case _:
                raise SystemExit(f"docker {' '.join(arguments)} is not known here")

    def _prepared(self, name: str) -> Service:
        open_network()
        service = self._service(name)
        service.prepare(self._names)
        return service

    # --- the header ---

    def run_header(self, model: Path) -> None:
        """Every line of the header that is a command, in its order; then HTTP from outside, and the end."""
        environment = {**os.environ, SHIM: str(self._work), "PATH": f"{_shim(self._work)}:{os.environ['PATH']}"}
        (self._folder / ".env").unlink(missing_ok=True)
        key = ""
        for line in self.header():
            if "model add" in line:
                given = self._work / "volumes" / "controller" / "given"
                shutil.copytree(model, given, dirs_exist_ok=True)
                checked("chmod", "-R", "a+rX", str(given))
                line = line.replace(HUB_MODEL, f"given --name {HUB_MODEL.rpartition('/')[2]}")
            say(f"$ {line}")
            done = subprocess.run(
                ["bash", "-ec", line], cwd=self._folder, env=environment, stdout=subprocess.PIPE, text=True, check=True
            )
            say(done.stdout.rstrip())
            key = done.stdout.strip() if "key add" in line else key
        self._ask_over_http(key)
        for name in reversed(self._names):
            took = self._service(name).stop()
            say(f"{name} ended after {took:.1f} s: {self._service(name).log.read_text().splitlines()[-1:]}")

    def header(self) -> list[str]:
        text = (self._folder / "compose.yaml").read_text(encoding="utf-8")
        lines = re.findall(r"^#   ((?:docker|echo) .*)$", text, re.MULTILINE)
        return [re.sub(r"\s+# .*| {2,}(?=#).*", "", line).rstrip() for line in lines]

    def _ask_over_http(self, key: str) -> None:
        """From outside the container, with the key and without."""
        address = f"http://{self._names['controller']}:7878/v1/chat/completions"
        body = {"model": HUB_MODEL.rpartition("/")[2], "messages": [{"role": "user", "content": "Hello"}]}
        data = json.dumps({**body, "max_tokens": 8}).encode()
        request = urllib.request.Request(address, data, {"Content-Type": "application/json"})
        try:
            urllib.request.urlopen(request, timeout=60)
            raise SystemExit("the server answers without a key")
        except urllib.error.HTTPError as refused:
            if refused.code != 401:
                raise
        request.add_header("Authorization", f"Bearer {key}")
        with urllib.request.urlopen(request, timeout=60) as answer:
            say(f"over HTTP: {json.load(answer)['choices'][0]['message']['content']!r}")

    def clear_away(self) -> None:
        for name in self._names:
            if (self._work / "images" / f"{self._file['services'][name]['image']}.json").exists():
                self._service(name).clear_away()
        close_network()


def _take_repository(context: Path) -> None:
    """What is committed, and nothing that lies about in the checkout besides."""
    shutil.rmtree(context, ignore_errors=True)
    context.mkdir(parents=True)
    packed = subprocess.run(["git", "-C", str(HERE.parent.parent), "archive", "HEAD"], check=True, capture_output=True)
    subprocess.run(["tar", "-x", "-C", str(context)], input=packed.stdout, check=True)


def _surroundings(binds: Sequence[str], environment: Sequence[str]) -> Surroundings:
    pairs = [bind.partition(":") for bind in binds]
    return Surroundings(tuple((Path(source), place or source) for source, _, place in pairs), strings(environment))


def _shim(work: Path) -> Path:
    """A folder with a `docker` that is this program."""
    folder = work / "bin"
    folder.mkdir(exist_ok=True)
    (folder / "docker").write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).resolve()}" "$@"\n')
    (folder / "docker").chmod(0o755)
    return folder


if __name__ == "__main__":
    sys.exit(main())
