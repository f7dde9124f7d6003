"""The model library over REST: what is in it, adding in the background, removing, and who may name folders."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.inference import measuring
from tests.api.browsing import browsing
from tests.api.serving import CONTEXT, LAYERS, MODEL, Served
from tests.models.hub_stand_in import HubStandIn, running_hub
from tests.tiny_model import change_json

STATUS, ADD = "/shard/api/models/status/", "/shard/api/models/add/"
ELSEWHERE = {"x-forwarded-for": "192.0.2.7"}
"""What a proxy on this machine says of a client that is not on it."""


@pytest.fixture
def hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStandIn]:
    """A stand-in of the Hub, which has the model."""
    with running_hub() as hub:
        hub.repositories["some/tiny-one"] = Path(shutil.copytree(tiny_folder, tmp_path / "hub"))
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        yield hub


def names(api: Served) -> list[str]:
    return [model["name"] for model in api.get(STATUS)["models"]]


def newest_job(api: Served) -> Any:
    return api.get("/shard/api/jobs/recent/", params={"limit": 1})["jobs"]


def test_a_model_is_told_with_what_it_is(api: Served, tiny_folder: Path) -> None:
    (model,) = api.get(STATUS)["models"]
    assert (model["name"], model["layers"], model["context"], model["dtype"]) == (MODEL, LAYERS, CONTEXT, "float32")
    assert (model["architecture"], model["source"]) == ("LlamaForCausalLM", str(tiny_folder))
    assert model["parameters"] > 10_000
    weights = tiny_folder / "model.safetensors"
    assert 0 < model["weight_bytes"] <= weights.stat().st_size
    assert model["notes"] == [] and model["default_parameters"] == {}


def test_what_a_model_asks_of_each_answer_is_told_with_it(api: Served, tiny_folder: Path) -> None:
    file = tiny_folder / "generation_config.json"
    before = file.read_bytes()
    try:
        file.write_text(json.dumps({"do_sample": True, "temperature": 0.7, "num_beams": 3}))
        (model,) = api.get(STATUS)["models"]
        assert model["default_parameters"] == {"temperature": 0.7, "top_k": 50}
        assert model["notes"] == ["num_beams 3 is not applied: answers are made token by token, without beams."]
        asked = api.answer(max_tokens=2)["parameters"]
        assert (asked["temperature"], asked["top_k"]) == (0.7, 50)
        asked = api.answer(max_tokens=2, temperature=0.0, top_k=None)["parameters"]
        assert (asked["temperature"], asked["top_k"]) == (0.0, 50)
        file.write_text("{")
        (model,) = api.get(STATUS)["models"]
        assert "generation_config.json" in model["notes"][0], "a broken file is told, and the list stays"
    finally:
        file.write_bytes(before)


def test_what_was_found_out_when_a_model_was_added_is_told_with_it(
    api: Served, tiny_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_folder, tmp_path / "other"))
    change_json(folder / "tokenizer_config.json", eos_token="<|im_end|>")
    job = api.job(api.post(ADD, {"source": str(folder), "name": "other"}, 202)["id"])
    [note] = job["details"]["notes"]
    assert "the tokenizer goes beyond: <|im_end|>" in note
    found = {model["name"]: model["notes"] for model in api.get(STATUS)["models"]}
    assert found == {MODEL: [], "other": [note]}
    page = api.client.get("/shard/models/", headers={"accept": "text/html"}).text
    assert "&lt;|im_end|&gt;" in page
    api.post("/shard/api/models/remove/other/", {})


def test_a_folder_is_added_in_the_background_and_its_model_answers_until_it_is_removed(
    api: Served, tiny_folder: Path
) -> None:
    begun = api.post(ADD, {"source": str(tiny_folder), "name": "Other one"}, 202)
    assert (begun["kind"], begun["title"], begun["model"]) == ("add", "Add Other one", "Other one")
    assert begun["status"] in ("queued", "running") and begun["completed_at"] is None
    job = api.job(begun["id"])
    assert (job["status"], job["error"]) == ("done", None)
    assert job["details"]["bytes"] > 0 and job["started_at"] <= job["completed_at"]
    assert sorted(names(api)) == ["Other one", MODEL]

    body = {"model": "other one", "prompt": "x", "parameters": {"max_tokens": 1}}
    answer = api.finished(api.post("/shard/api/inference/submit/", body, 202)["id"])
    assert (answer["status"], answer["model"]) == ("completed", "Other one"), "it is loaded when it is asked"
    api.post(f"/shard/api/deployments/undeploy/{answer['deployment_id']}/")

    removed = api.post("/shard/api/models/remove/other ONE/")
    assert removed["name"] == "Other one", "upper and lower case are the same"
    assert names(api) == [MODEL]
    assert "no model named" in api.error("POST", "/shard/api/inference/submit/", 404, json=body)["message"]
    assert (tiny_folder / "model.safetensors").is_file(), "a folder that it was added from stays"
    assert not (api.system.home.models / "Other one").exists()


def test_what_a_models_numbers_cost_is_measured_in_the_background_and_told_with_it(
    api: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measuring, "MOST_TOKENS", 600)
    monkeypatch.setattr(measuring, "ANSWER_TOKENS", 8)
    begun = api.post(
        f"/shard/api/models/measure/{MODEL}/", {"quantize": "int8", "nodes": [api.system.nodes[0].id]}, 202
    )
    assert (begun["kind"], begun["title"], begun["model"]) == ("measure", f"Measure {MODEL} in int8", MODEL)
    job = api.job(begun["id"])
    assert (job["status"], job["error"]) == ("done", None)
    (model,) = api.get(STATUS)["models"]
    (measured,) = model["measurements"]
    assert (measured["dtype"], measured["quantize"], measured["text"]) == ("float32", "int8", "plain-english-1")
    assert measured["perplexity"] == job["details"]["perplexity"] > 1 and measured["reference"] == "float32"
    assert measured["tokens"] > 500 and 0 < measured["same_tokens"] <= measured["greedy_tokens"] == 64
    assert measured["in_words"].startswith("in float32, weights in int8: perplexity ")
    page = api.client.get("/shard/models/", headers={"accept": "text/html"}).text
    assert "Measured in float32, weights in int8: perplexity " in page
    before = newest_job(api)
    for body, status in (
        ({"quantize": "int3"}, 422), ({"nodes": [99_999]}, 404), ({"against": "nobody"}, 404), ({"context": 9}, 422),
    ):  # fmt: skip
        api.error("POST", f"/shard/api/models/measure/{MODEL}/", status, json=body)
    api.error("POST", "/shard/api/models/measure/nobody/", 404)
    assert newest_job(api) == before


def test_a_model_of_the_hub_is_fetched(api: Served, hub: HubStandIn) -> None:
    job = api.job(api.post(ADD, {"source": "some/tiny-one", "revision": "main"}, 202)["id"])
    assert (job["status"], job["error"], job["model"]) == ("done", None, "tiny-one")
    assert job["details"]["source"].startswith("some/tiny-one@")
    assert api.post("/shard/api/models/remove/tiny-one/")["source"].startswith("some/tiny-one")
    assert not (api.system.home.models / "tiny-one").exists(), "what the library fetched goes with it"


def test_what_the_hub_does_not_have_is_told_by_the_job(api: Served, hub: HubStandIn) -> None:
    job = api.job(api.post(ADD, {"source": "some/other"}, 202)["id"])
    assert job["status"] == "failed" and "some/other" in job["error"]
    assert names(api) == [MODEL]


def test_a_folder_that_holds_no_model_is_told_by_the_job(api: Served, tmp_path: Path) -> None:
    job = api.job(api.post(ADD, {"source": str(tmp_path)}, 202)["id"])
    assert job["status"] == "failed" and "config.json" in job["error"]
    assert job["details"] == {} and names(api) == [MODEL]


def test_a_name_that_is_taken_is_a_conflict(api: Served, tiny_folder: Path) -> None:
    before = newest_job(api)
    for name in (MODEL, MODEL.upper()):
        error = api.error("POST", ADD, 409, json={"source": str(tiny_folder), "name": name})
        assert f"'{MODEL}' already" in error["message"]
    assert newest_job(api) == before


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"source": "/no/such/folder"}, 400),
        ({"source": "no-owner"}, 400),
        ({"source": "a/b/c"}, 400),
        ({"source": __file__}, 400),
        ({"source": ""}, 422),
        ({}, 422),
        ({"source": "some/tiny", "name": "a/b"}, 400),
        ({"source": "some/tiny", "name": ""}, 422),
        ({"source": "some/tiny", "name": "x" * 101}, 422),
        ({"source": "some/tiny", "token": "secret"}, 422),
    ],
)
def test_what_cannot_be_a_model_is_told_before_anything_begins(api: Served, body: dict[str, str], status: int) -> None:
    before = newest_job(api)
    assert api.error("POST", ADD, status, json=body)["type"] == "bad_input"
    assert newest_job(api) == before


@pytest.mark.parametrize("header", ["x-forwarded-for", "forwarded", "x-real-ip"])
def test_folders_of_the_machine_are_for_its_own_programs(api: Served, tiny_folder: Path, header: str) -> None:
    before = newest_job(api)
    for source in (str(tiny_folder), "/", "~", ".", "..", "./some/tiny", "/no/such/folder", "tests/api", "nothing"):
        error = api.error("POST", ADD, 403, json={"source": source}, headers={header: "192.0.2.7"})
        assert error["code"] == "not_local"
        # Nor does the answer tell what is there and what is not.
        assert error["message"] == "Folders and files of the controller's machine can be added from that machine only."
    assert newest_job(api) == before


def test_the_hub_is_for_everybody(api: Served, hub: HubStandIn) -> None:
    job = api.post(ADD, {"source": "some/other"}, 202, headers=ELSEWHERE)
    assert api.job(job["id"])["status"] == "failed", "the Hub does not have that one, and was asked for it"


def test_a_deployed_model_is_not_removed(api: Served) -> None:
    error = api.error("POST", f"/shard/api/models/remove/{MODEL}/", 409, json={})
    assert "is deployed" in error["message"] and "Take it down first" in error["advice"]
    assert names(api) == [MODEL]


def test_a_model_that_is_not_there_is_told(api: Served) -> None:
    for name in ("nobody", "..", "%2e%2e%2fx", "x" * 200):
        api.error("POST", f"/shard/api/models/remove/{name}/", 404, json={})
    api.error("POST", f"/shard/api/models/remove/{'x' * 201}/", 422, json={})


def test_the_forms_of_the_page_add_and_remove(api: Served, tmp_path: Path) -> None:
    with browsing(api) as browser:
        answer = browser.send(ADD, page="/shard/models/", source=str(tmp_path), name="Third", revision="")
        assert (answer.status_code, answer.headers["location"]) == (303, "/shard/models/")
        (job,) = newest_job(api)
        assert (job["title"], api.job(job["id"])["status"]) == ("Add Third", "failed"), "there is nothing in it"
        assert "Add Third" in browser.open("/shard/models/")
        refused = browser.send(f"/shard/api/models/remove/{MODEL}/", page="/shard/models/")
        assert refused.status_code == 409 and "is deployed" in refused.text
    assert names(api) == [MODEL]
