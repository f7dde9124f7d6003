"""The images and compose.yaml: held against the repository always, built and run where there is a container engine."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent.parent
FOLDER = ROOT / "deploy" / "docker"
DOCKERFILES = ("Dockerfile.agent", "Dockerfile.controller")
COMPOSE = FOLDER / "compose.yaml"


def steps(name: str) -> list[tuple[str, str]]:
    """Instruction and text of each step of a Dockerfile."""
    text = re.sub(r"^\s*#.*\n", "", (FOLDER / name).read_text(encoding="utf-8"), flags=re.MULTILINE)
    return re.findall(r"^([A-Z]+) +(.+)$", text.replace("\\\n", " "), re.MULTILINE)


def texts(name: str, instruction: str) -> list[str]:
    return [text for found, text in steps(name) if found == instruction]


def header() -> list[str]:
    """The lines of compose.yaml's header that are commands, in their order."""
    lines = re.findall(r"^#   ((?:docker|echo) .*)$", COMPOSE.read_text(encoding="utf-8"), re.MULTILINE)
    return [re.sub(r" {2,}#.*", "", line).rstrip() for line in lines]


def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text(encoding="utf-8"))["services"])


@pytest.mark.parametrize("name", (*DOCKERFILES, "Dockerfile.ray"))
def test_what_an_image_copies_is_in_the_repository(name: str) -> None:
    copied = [
        [word for word in text.split()[:-1] if not word.startswith("--chown=")]
        for text in texts(name, "COPY")
        if not text.startswith("--from=")
    ]
    assert copied
    assert [path for paths in copied for path in paths if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", DOCKERFILES)
def test_what_an_image_installs_and_starts_is_what_the_package_has(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {extra for text in texts(name, "RUN") for found in re.findall(r"/source\[(.+?)\]", text)
              for extra in found.split(",")}  # fmt: skip
    assert extras <= set(project["optional-dependencies"])
    [entrypoint] = texts(name, "ENTRYPOINT")
    assert json.loads(entrypoint)[0] in project["scripts"]


@pytest.mark.parametrize("name", DOCKERFILES)
def test_no_shell_stands_between_an_image_and_its_program(name: str) -> None:
    """It would keep SIGTERM from it."""
    commands = [*texts(name, "ENTRYPOINT"), *texts(name, "CMD")]
    commands += [text.partition("CMD ")[2] for text in texts(name, "HEALTHCHECK")]
    assert len(commands) == 3
    assert all(isinstance(json.loads(command), list) for command in commands)
    assert texts(name, "USER") == ["shardboard"]  # and it is not root


def test_the_services_are_built_from_these_files_and_pass_on_arguments_that_they_have() -> None:
    for service in services().values():
        build, name = service["build"], Path(service["build"]["dockerfile"]).name
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert set(build["args"]) <= {text.partition("=")[0] for text in texts(name, "ARG")}
        assert [volume.partition(":")[2] for volume in service["volumes"]] == texts(name, "VOLUME")


def test_the_header_names_services_that_there_are() -> None:
    lines = header()
    assert len(lines) == 10
    named = {word for line in lines for word in re.findall(r"\b(?:exec(?: -T)?|run --rm|up -d) (\w+)", line)}
    assert named <= set(services())
    assert {"controller", "agent1"} <= named


# --- with a container engine ---


def has_engine() -> bool:
    docker = shutil.which("docker")
    return docker is not None and subprocess.run([docker, "info"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def engine() -> Iterator[None]:
    if os.environ.get("SHARDBOARD_TEST_DOCKER") != "1":
        pytest.skip("SHARDBOARD_TEST_DOCKER=1 builds the images and downloads a model: some minutes, 10 GB")
    if not has_engine():
        pytest.skip("there is no container engine that answers")
    yield
    subprocess.run(["docker", "compose", "down", "--volumes"], cwd=FOLDER, check=False)
    (FOLDER / ".env").unlink(missing_ok=True)


@pytest.mark.timeout(3600)
def test_the_lines_of_the_header_lead_to_an_answer_over_two_agents(engine: None) -> None:
    key = ""
    for line in header():
        said = subprocess.run(["bash", "-ec", line], cwd=FOLDER, stdout=subprocess.PIPE, text=True, check=True).stdout
        key = said.strip() if "key add" in line else key
    body = {"model": "SmolLM2-135M-Instruct", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 8}
    request = urllib.request.Request(
        "http://127.0.0.1:7878/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=60)
    request.add_header("Authorization", f"Bearer {key}")
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert json.load(answer)["choices"][0]["message"]["content"]
    subprocess.run(["docker", "compose", "stop"], cwd=FOLDER, check=True, timeout=120)
    codes = subprocess.run(["docker", "compose", "ps", "-a", "--format", "{{.ExitCode}}"], cwd=FOLDER,
                           stdout=subprocess.PIPE, text=True, check=True).stdout.split()  # fmt: skip
    assert set(codes) == {"0"}
