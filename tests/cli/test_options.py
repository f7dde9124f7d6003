"""How options are read, and what is said of those that cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.cli.options import read_amounts, read_ids, read_nodes, read_wish
from app.cli.root import app
from app.errors import BadInput
from app.serving import ServingWish

COMMANDS = [
    ["model", "add"],
    ["model", "list"],
    ["model", "inspect"],
    ["model", "remove"],
    ["shard_model"],
    ["shard-model"],
    ["node", "add"],
    ["node", "list"],
    ["node", "remove"],
    ["node", "drain"],
    ["node", "local"],
    ["node", "update"],
    ["node", "start"],
    ["node", "stop"],
    ["node", "log"],
    ["settings", "prune"],
    ["node", "launchers"],
    ["ray", "up"],
    ["ray", "down"],
    ["ray", "status"],
    ["node", "find"],
    ["node", "invite"],
    ["plan"],
    ["deploy"],
    ["undeploy"],
    ["deployment", "list"],
    ["generate"],
    ["request", "list"],
    ["request", "show"],
    ["doctor"],
]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODEL_CACHE_DIR", raising=False)
    return tmp_path / "home"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_and_touches_nothing_for_it(command: list[str], home: Path) -> None:
    result = CliRunner().invoke(app, [*command, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output
    assert not home.exists()


def test_the_version_is_shown() -> None:
    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0 and result.output.startswith("shardboard ")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["generate", "m"], "There must be a prompt."),
        (["generate", "m", "hi", "--token-ids", "1"], "There must be a prompt."),
        (["generate", "m", ""], "The prompt is empty."),
        (["generate", "m", "--token-ids", "1,x"], "--token-ids is '1,x'"),
        (["generate", "m", "hi", "--raw", "--system", "s"], "--system needs the chat template."),
        (["generate", "m", "hi", "--logit-bias", "5"], "--logit-bias is '5'"),
        (["plan", "m", "--nodes", "1,one"], "--nodes is '1,one'"),
        (["deploy", "m", "--nodes", "1,1"], "names a node twice"),
        (["deploy", "m", "--dtype", "int8"], "--dtype is 'int8'"),
        (["deploy", "m", "--quantize", "int3"], "--quantize is 'int3'"),
        (["deploy", "m", "--aim", "quick"], "--aim is 'quick'; it can be fastest, most, fits, fewest."),
        (["plan", "m", "--kv", "int4"], "--kv is 'int4'; it can be computed, int8."),
        (["shard_model", "--model_name", "m", "--output_dir", "x"], "How to cut is not said."),
        (["shard_model", "--model-name", "m", "--output-dir", "x", "--num-shards", "0"], "into 0 shards"),
        (["shard-model", "--model_name", "m", "--output_dir", "x", "--num_shards", "2", "--node_id", "1"], "--node_id"),
    ],
)
def test_what_cannot_be_used_is_refused_in_a_sentence_before_anything_is_opened(
    arguments: list[str], says: str, home: Path
) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert says in result.stderr and "Traceback" not in result.stderr
    assert result.stdout == ""
    assert not home.exists()


def test_a_parameter_out_of_range_is_named_with_its_range() -> None:
    result = CliRunner().invoke(app, ["generate", "m", "hi", "--top-p", "1.5"])
    assert result.exit_code == 1
    assert "top_p is 1.5; allowed is a number above 0 and at most 1." in result.stderr


@pytest.mark.parametrize(
    "arguments", [["nothing"], ["--headless", "doctor"], ["node", "local", "0"], ["request", "show", "x"]]
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2


def test_ids_nodes_and_wishes_are_read() -> None:
    assert read_ids("3, 1,3", "--x") == [3, 1, 3]
    assert read_nodes("2,1") == [2, 1] and read_nodes(None) is None
    wish = read_wish(dtype="bfloat16", quantize=None, kv_dtype="int8", recovery="exact")
    assert wish == ServingWish(dtype="bfloat16", kv_dtype="int8", recovery="exact")
    with pytest.raises(BadInput, match="negative"):
        read_ids("-1", "--x")
    with pytest.raises(BadInput, match="--kv is 'int4'; it can be computed, int8"):
        read_wish(dtype=None, quantize=None, kv_dtype="int4")


def test_amounts_are_names_with_numbers() -> None:
    assert read_amounts(["rack=1", "big=0.5"], "--resource") == {"rack": 1.0, "big": 0.5}
    for wrong in ("rack", "rack=", "=1", "rack=none", "rack=0", "rack=-1"):
        with pytest.raises(BadInput, match="--resource"):
            read_amounts([wrong], "--resource")
