"""The commands as a user gives them: a tiny model, one agent in a process of its own, requests, Ctrl-C."""

from __future__ import annotations

import json
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from app.figures import size_text
from tests.cli.programs import CommandLine, runs
from tests.tiny_model import change_json


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[CommandLine]:
    """A home with the model in its library and one agent on this machine."""
    shell = CommandLine(tmp_path_factory.mktemp("home"))
    assert shell.json("model", "add", str(folder), "--name", "tiny")["num_layers"] == 3
    [node] = shell.json("node", "local", "1")
    yield shell
    shell.run("node", "remove", str(node["id"]))
    assert not runs(node["local_pid"])
    assert shell.json("node", "list") == []


def test_adding_a_model_tells_what_its_user_should_know(shell: CommandLine, folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    change_json(other / "tokenizer_config.json", eos_token="<|im_end|>")
    shown = " ".join(shell.run("model", "add", str(other)).split())
    rows = json.loads((folder / "config.json").read_text())["vocab_size"]
    assert f"The model's vocabulary ends at {rows - 1}" in shown and f"<|im_end|> ({rows})" in shown
    [note] = shell.json("model", "inspect", "other")["notes"]
    assert "A text that needs such a token is refused." in note
    shell.run("model", "remove", "other")


def test_what_a_model_asks_of_each_answer_is_shown_applied_and_overridden(
    shell: CommandLine, folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    asked = {"repetition_penalty": 1.3, "max_new_tokens": 4, "num_beams": 2}
    (other / "generation_config.json").write_text(json.dumps(asked))
    for command in (("add", str(other)), ("inspect", "other")):
        shown = " ".join(shell.run("model", *command).split())
        assert "repetition_penalty 1.3, max_tokens 4" in shown
        assert "num_beams 2 is not applied: answers are made token by token, without beams." in shown
    silent = shell.json("generate", "other", "--token-ids", "7,8,9", "--ignore-eos")
    assert (silent["parameters"]["repetition_penalty"], silent["completion_tokens"]) == (1.3, 4)
    assert "repetition_penalty 1.3" in " ".join(shell.run("request", "show", str(silent["id"])).split())
    own = shell.json(
        "generate", "other", "--token-ids", "7,8,9", "--ignore-eos", "--repetition-penalty", "1", "--max-tokens", "6",
        "--stop-token-id", str(silent["token_ids"][0]), "--no-repeat-ngram-size", "2",
    )  # fmt: skip
    said = own["parameters"]
    assert (said["repetition_penalty"], said["max_tokens"], said["no_repeat_ngram_size"]) == (1.0, 6, 2)
    assert said["stop_token_ids"] == [silent["token_ids"][0]]
    [run] = [json.loads(line) for line in shell.run("export", str(silent["id"]), "--format", "jsonl").splitlines()]
    assert run["trace"]["notes"] == ["num_beams 2 is not applied: answers are made token by token, without beams."]
    shell.run("undeploy", "other")
    shell.run("model", "remove", "other")


def test_a_model_that_does_not_fit_its_config_is_not_added(shell: CommandLine, folder: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    change_json(other / "config.json", vocab_size=17)
    shown = " ".join(shell.run("model", "add", str(other), code=1).split())
    assert "and 17 × 32 by the config (vocab_size 17)" in shown
    assert "config.json and weights are not of the same model" in shown
    assert [model["name"] for model in shell.json("model", "list")] == ["tiny"]


def test_jobs_are_listed_shown_and_followed_and_what_is_done_cannot_be_cancelled(shell: CommandLine) -> None:
    job = shell.json("job", "list")[-1]
    assert (job["title"], job["kind"], job["status"], job["model_name"]) == ("Add tiny", "add", "done", "tiny")
    assert shell.json("job", "show", str(job["id"])) == shell.json("job", "follow", str(job["id"])) == job
    shown = " ".join(shell.run("job", "show", str(job["id"])).split())
    assert "Add tiny (done)" in shown and f"Bytes {size_text(job['details']['bytes'])}" in shown
    assert "on the command line" in shown, "who asked for it"
    for command, says in (("cancel", "is over: done"), ("retry", "is done")):
        assert f"Job {job['id']} {says}." in shell.run("job", command, str(job["id"]), code=1)


def test_models_and_nodes_are_listed(shell: CommandLine) -> None:
    assert [model["name"] for model in shell.json("model", "list")] == ["tiny"]
    assert "between any two layers" in shell.run("model", "inspect", "tiny")
    [node] = shell.json("node", "list")
    assert node["is_active"] and node["state"] == "up" and runs(node["local_pid"])
    memory = node["memory"]
    assert 10_000_000 < memory["agent"] == memory["believed"] and memory["used"] == 0 < memory["budget"]
    assert memory["held"] > 10_000_000
    shown = shell.run("node", "list")
    assert all(title in shown for title in ("Agent itself", "Process should hold", "It holds"))
    assert node["hostname"] in (alone := shell.run("node", "show", str(node["id"]))) and "Computes on" in alone
    assert "There is no node nobody." in shell.run("node", "show", "nobody", code=1)


def test_a_placement_is_shown_deployed_and_taken_down(shell: CommandLine) -> None:
    plan = shell.json("plan", "tiny", "--kv-tokens", "4096")
    [stage], [process] = plan["stages"], plan["processes"]
    assert (stage["start"], stage["end"]) == (0, 3)
    taken = stage["weight_bytes"] + stage["kv_bytes"] + process["working_bytes"]
    assert process["process_bytes"] == process["agent_bytes"] + taken and process["working_bytes"] > 40_000_000
    assert "Agent itself" in shell.run("plan", "tiny")
    smaller = shell.json("plan", "tiny", "--kv-tokens", "4096", "--kv", "int8")
    assert smaller["kv_dtype"] == "int8" and smaller["stages"][0]["kv_bytes"] < stage["kv_bytes"] / 2
    assert "keys and values in int8" in shell.run("plan", "tiny", "--kv", "int8")
    assert "in int8" in shell.run("model", "inspect", "tiny")
    deployment = shell.json("deploy", "tiny", "--kv-tokens", "4096")
    assert deployment["status"] == "ready"
    [listed] = shell.json("deployment", "list")
    assert listed["id"] == deployment["id"] and listed["stages"] == deployment["stages"]
    ways = {way["name"]: way for way in listed["stages"][0]["ways"]}
    assert (ways["batched"]["used"], ways["batched"]["possible"]) == (3, 3)
    assert "all 3 layers" in shell.run("deployment", "list", "--ways")
    assert "all 3 layers" not in shell.run("deployment", "list")
    [here, beside] = [shell.json("node", "list")[0]["id"], shell.json("node", "local", "1")[0]["id"]]
    moved = shell.json("deploy", "tiny", "--live", "--nodes", str(beside))
    assert moved["id"] == deployment["id"] and (moved["answers"], moved["pause_seconds"]) == (0, 0.0)
    back = shell.start("deploy", "tiny", "--live", "--nodes", str(here))
    _, said = back.communicate(timeout=120)
    assert back.returncode == 0 and "tiny: layers 0–2 went from " in " ".join(said.split())
    assert "layers 0" in shell.run("node", "log", str(beside))
    pid = shell.json("node", "list")[1]["local_pid"]
    shell.run("node", "stop", str(beside))
    assert not runs(pid)
    shell.run("node", "start", "--all")
    assert runs(shell.json("node", "list")[1]["local_pid"])
    shell.run("node", "remove", str(beside))
    shell.run("undeploy", "tiny")
    in_8_bits = shell.json("deploy", "tiny", "--kv-tokens", "4096", "--kv", "int8")
    assert in_8_bits["kv_dtype"] == "int8" and in_8_bits["stages"][0]["kv_bytes"] == smaller["stages"][0]["kv_bytes"]
    assert "Keys and values in 8 bits" in shell.run("deployment", "list", "--ways")
    shell.run("undeploy", "tiny")
    assert shell.json("deployment", "list") == []


def test_what_int8_costs_is_measured_and_shown_with_the_model(shell: CommandLine) -> None:
    measured = shell.json("model", "measure", "tiny", "--quantize", "int8")
    assert measured["serving"]["quantize"] == "int8" and measured["reference"] == "float32"
    assert measured["tokens"] > 1000 and measured["perplexity"] > 1 and measured["greedy_tokens"] == 512
    assert shell.json("model", "inspect", "tiny")["measurements"] == [measured]
    shown = " ".join(shell.run("model", "inspect", "tiny").split())
    assert f"In float32, weights in int8 perplexity {measured['perplexity']:.2f}, " in shown
    assert "plain-english-1, on" in shown and "greedy tokens are the same" in shown
    assert shell.json("deployment", "list") == []


def test_an_answer_streams_and_is_recorded_as_transformers_makes_it(shell: CommandLine, folder: Path) -> None:
    record = shell.json("generate", "tiny", "The quick brown", "--max-tokens", "12")
    assert record["finish_reason"] == "length" and record["completion_tokens"] == 12
    tokenizer = AutoTokenizer.from_pretrained(folder)
    prompt = tokenizer.encode("The quick brown", add_special_tokens=False)
    assert record["prompt_token_ids"] == prompt
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = model.generate(torch.tensor([prompt]), max_new_tokens=12, do_sample=False)[0, len(prompt) :].tolist()
    assert record["token_ids"] == expected
    assert record["text"] == tokenizer.decode(expected, skip_special_tokens=True)
    streamed = shell.run("generate", "tiny", "The quick brown", "--max-tokens", "12")
    assert streamed.rstrip("\n") == "".join(c for c in record["text"] if c.isprintable() or c == "\n").rstrip("\n")
    shown = shell.json("request", "show", str(record["id"]))
    assert shown == record
    assert {request["status"] for request in shell.json("request", "list")} == {"completed"}


@pytest.mark.skipif(os.name == "nt", reason="a child on Windows cannot be sent a Ctrl-C alone")
def test_ctrl_c_cancels_the_request_and_keeps_its_text(shell: CommandLine) -> None:
    process = shell.start("generate", "tiny", "Again", "--max-tokens", "0")
    assert process.stdout is not None
    first = process.stdout.read(1)
    process.send_signal(signal.SIGINT)
    began = time.monotonic()
    rest, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and time.monotonic() - began < 10
    assert "was cancelled after" in errors and "Traceback" not in errors
    record = shell.json("request", "list", "--limit", "1", "--status", "cancelled")[0]
    assert record["completion_tokens"] > 0 and (first + rest).strip()


def test_a_prompt_that_is_too_long_is_refused_with_both_figures(shell: CommandLine) -> None:
    ids = ",".join(["5"] * 5000)
    errors = shell.run("generate", "tiny", "--token-ids", ids, code=1)
    assert "5000 tokens" in errors and "4096" in errors


def test_shards_are_written_with_the_options_spelt_either_way(shell: CommandLine, tmp_path: Path) -> None:
    out = str(tmp_path / "shards")
    shell.run("shard_model", "--model_name", "tiny", "--num_shards", "2", "--output_dir", out, "--device", "cpu")
    layers = [
        (metadata["shard_id"], metadata["start_layer"], metadata["end_layer"], metadata["total_shards"])
        for shard in sorted((tmp_path / "shards").iterdir())
        for metadata in [json.loads((shard / "metadata.json").read_text(encoding="utf-8"))]
    ]
    assert [entry[0] for entry in layers] == [0, 1] and layers[0][1] == 0 and layers[1][2] == 3
    other = str(tmp_path / "by-layers")
    result = shell.json("shard-model", "--model-name", "tiny", "--layers", "0,1-2", "--output-dir", other)
    assert [(shard["start_layer"], shard["end_layer"]) for shard in result["shards"]] == [(0, 1), (1, 3)]


@pytest.mark.cold
def test_the_demo_answers_with_agents_of_its_own_and_leaves_none(shell: CommandLine) -> None:
    before = {node["id"] for node in shell.json("node", "list")}
    record = shell.json("--headless", "--model", "tiny", "--agents", "2", "--prompt", "Hello")
    assert record["status"] == "completed" and record["completion_tokens"] > 0
    assert {node["id"] for node in shell.json("node", "list")} == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("generate", "absent", "hi"), "no model named 'absent'"),
        (("undeploy", "absent"), "'absent' is not deployed"),
        (("model", "measure", "absent"), "no model named 'absent'"),
        (("model", "measure", "tiny", "--quantize", "int3"), "--quantize is 'int3'; it can be none, int8, int4."),
        (("request", "show", "99999"), "no request 99999"),
        (("node", "remove", "99999"), "99999"),
        (("node", "add", "127.0.0.1:1", "--key", "short"), "key"),
    ],
)
def test_what_is_not_there_is_said_in_a_sentence(shell: CommandLine, arguments: tuple[str, ...], says: str) -> None:
    process = shell.start(*arguments)
    out, errors = process.communicate(timeout=60)
    assert process.returncode in (1, 2) and out == ""
    assert says in errors and "Traceback" not in errors
