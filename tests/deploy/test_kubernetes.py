"""KubeRay's manifest and Ray's image, held against what our program takes and needs."""

from __future__ import annotations

import json
import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from app.cli.options import read_amounts
from app.cli.root import app

ROOT = Path(__file__).resolve().parent.parent.parent
MANIFEST = ROOT / "deploy" / "kubernetes" / "ray-job.yaml"
DOCKERFILE = ROOT / "deploy" / "docker" / "Dockerfile.ray"


@pytest.fixture(scope="module")
def objects() -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))}


@pytest.fixture(scope="module")
def cluster(objects: dict[str, Any]) -> dict[str, Any]:
    return dict(objects["RayJob"]["spec"]["rayClusterSpec"])


def options(command: str) -> dict[str, Any]:
    """What a line that starts with `shardboard` gives each of its command's options. Fails for what there is not."""
    found: Any = typer.main.get_command(app)
    words = shlex.split(command)
    assert words.pop(0) == "shardboard"
    while hasattr(found, "commands"):
        found = found.commands[words.pop(0)]
    return dict(found.make_context("shardboard", words).params)


def version_of_ray() -> str:
    [image] = re.findall(
        r"^ARG RAY=rayproject/ray:(\d+\.\d+\.\d+)-py3\d+$", DOCKERFILE.read_text("utf-8"), re.MULTILINE
    )
    return str(image)


def resources_of(group: dict[str, Any]) -> dict[str, float]:
    """What Ray takes a pod of the group to have."""
    [container] = group["template"]["spec"]["containers"]
    custom = json.loads(json.loads(group["rayStartParams"].get("resources", '"{}"')))
    cpus = group["rayStartParams"].get("num-cpus", container["resources"]["limits"]["cpu"])
    return {"CPU": float(cpus), **custom}


def test_each_worker_pod_has_what_one_agent_takes_and_the_head_has_none_of_it(
    objects: dict[str, Any], cluster: dict[str, Any]
) -> None:
    given = options(objects["RayJob"]["spec"]["entrypoint"])
    wanted = read_amounts(given["ray_resource"], "--ray-resource")
    assert wanted, "else the autoscaler would be asked for CPUs, and one pod has those of several agents"
    [workers] = cluster["workerGroupSpecs"]
    has = resources_of(workers)
    assert all(amount <= has[name] < 2 * amount for name, amount in wanted.items()), "one agent for each pod"
    assert has["CPU"] >= 1 and resources_of(cluster["headGroupSpec"])["CPU"] == 0
    assert workers["minReplicas"] == 0 and given["ray"] <= workers["maxReplicas"]
    assert cluster["enableInTreeAutoscaling"] and given["ray_idle"] > 0, "machines go while nobody asks"


def test_the_cluster_asks_for_a_token_and_its_object_store_is_small(cluster: dict[str, Any]) -> None:
    assert cluster["authOptions"] == {"mode": "token"}
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert int(group["rayStartParams"]["object-store-memory"]) <= 100_000_000


def test_all_pods_run_one_image_whose_ray_is_the_one_that_was_tested(cluster: dict[str, Any]) -> None:
    groups = (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])
    assert {each["image"] for group in groups for each in group["template"]["spec"]["containers"]} == {"shardboard-ray"}
    assert cluster["rayVersion"] == version_of_ray()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [allowed] = project["optional-dependencies"]["ray"]
    lowest, below = (tuple(map(int, each.split("."))) for each in re.findall(r"\d+\.\d+", allowed))
    assert lowest <= tuple(map(int, version_of_ray().split(".")[:2])) < below


def test_home_is_a_volume_where_the_image_has_it_and_outlives_the_head(
    objects: dict[str, Any], cluster: dict[str, Any]
) -> None:
    [home] = re.findall(r'^ENV SHARDBOARD_HOME="([^"]+)"', DOCKERFILE.read_text("utf-8"), re.MULTILINE)
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        [mount] = pod["containers"][0]["volumeMounts"]
        assert mount == {"name": pod["volumes"][0]["name"], "mountPath": home}
    [volume] = cluster["headGroupSpec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == objects["PersistentVolumeClaim"]["metadata"]["name"]


def test_the_commands_in_its_header_are_commands_with_these_options() -> None:
    lines = re.findall(r"^#   kubectl exec \$head -- (shardboard .*)$", MANIFEST.read_text("utf-8"), re.MULTILINE)
    assert len(lines) == 4
    for line in lines:
        options(line)
