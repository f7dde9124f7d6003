"""`generate` with forms that the answer has to have, and with log probabilities in what it prints."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.cli.programs import CommandLine

SCHEMA = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "green"]}},
    "required": ["colour"],
    "additionalProperties": False,
    "x-guidance": {"whitespace_flexible": False},  # random weights would go on with white space for ever
}


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory, folder: Path) -> Iterator[CommandLine]:
    shell = CommandLine(tmp_path_factory.mktemp("home"))
    shell.run("model", "add", str(folder), "--name", "tiny")
    [node] = shell.json("node", "local", "1")
    yield shell
    shell.run("node", "remove", str(node["id"]))


def test_log_probabilities_of_prompt_and_answer_are_printed_and_shown_again(shell: CommandLine, folder: Path) -> None:
    record = shell.json(
        "generate", "tiny", "--token-ids", "7,8,9", "--max-tokens", "4", "--logprobs", "2", "--prompt-logprobs", "0"
    )
    tokens = [7, 8, 9, *record["token_ids"]]
    model = AutoModelForCausalLM.from_pretrained(folder)
    expected = torch.log_softmax(model(torch.tensor([tokens])).logits[0].detach().float(), -1)
    first, *prompt = record["prompt_logprobs"]
    assert first is None
    told = [*prompt, *record["logprobs"]]
    assert [each["token"] for each in told] == tokens[1:]
    for position, each in enumerate(told):
        assert each["logprob"] == pytest.approx(float(expected[position, each["token"]]), abs=1e-3)
    likely = expected[2].topk(2)
    assert [other["token"] for other in record["logprobs"][0]["top"]] == likely.indices.tolist()
    assert shell.json("request", "show", str(record["id"])) == record
    assert "logprobs" not in shell.json("generate", "tiny", "--token-ids", "7", "--max-tokens", "1")


def test_an_answer_is_held_to_a_schema_from_a_file_or_the_command_itself(shell: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "colour.json"
    path.write_text(json.dumps(SCHEMA))
    for given in (str(path), json.dumps(SCHEMA)):
        record = shell.json("generate", "tiny", "A colour", "--json-schema", given)
        assert json.loads(record["text"])["colour"] in ("red", "green")
        assert record["parameters"]["constraint"]["kind"] == "json_schema"
    assert shell.json("generate", "tiny", "A number", "--regex", "[0-9]{3}")["text"].isdigit()


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (("--json-object", "--regex", "a"), 2, "one form"),
        (("--json-schema", "no-such-file.json"), 2, "no-such-file.json"),
        (("--json-schema", '{"type": "nonsense"}'), 1, "schema"),
        (("--grammar", "start: ("), 1, "grammar"),
    ],
)
def test_a_form_that_cannot_be_used_is_refused_before_anything_runs(
    shell: CommandLine, options: tuple[str, ...], code: int, says: str
) -> None:
    before = shell.json("request", "list")
    errors = shell.run("generate", "tiny", "Hello", *options, code=code)
    assert says in errors and "Traceback" not in errors
    assert shell.json("request", "list") == before


def test_what_a_model_thinks_goes_apart_from_its_answer_and_without_its_marks(
    shell: CommandLine, folder: Path, tmp_path: Path
) -> None:
    thinker = Path(shutil.copytree(folder, tmp_path / "thinker"))
    (thinker / "chat_template.jinja").write_text(
        "{% for message in messages %}{{ message.content }}{% endfor %}{% if false %}<think> … </think>{% endif %}"
    )
    shell.run("model", "add", str(thinker), "--name", "thinker")
    process = shell.start("generate", "thinker", "Why?", "--regex", "<think>\nmust be so\n</think>\n\nIt is so!")
    answer, others = process.communicate(timeout=120)
    assert answer == "It is so!\n"
    assert "must be so\n" in others and "think>" not in others
    record = shell.json("request", "list", "--limit", "1")[0]
    shown = shell.json("request", "show", str(record["id"]))
    assert shown["text"].startswith("<think>"), "the record keeps what the model wrote"
    raw = shell.run("generate", "thinker", "Why?", "--raw", "--regex", "<think>so</think>It is so!")
    assert raw == "<think>so</think>It is so!\n", "a text that is no chat is shown as it is"
