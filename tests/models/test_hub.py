"""Models of the Hub, with the real huggingface_hub against a small stand-in of the Hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import save_file

from app.children.work import JobProgress
from app.errors import BadInput, ModelError
from app.inference.chat_template import ChatTemplate
from app.models.hub import DownloadOutcome, download_job
from app.models.library import ModelLibrary
from tests.models.described import tensors_of
from tests.models.hub_stand_in import COMMIT, HubStandIn, running_hub
from tests.models.prequantized_models import FORMATS, write_quantized
from tests.tiny_model import change_json
from tests.warm import starting_warm_here
from tests.worker_agent.tiny_models import make_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    make_model("llama", folder)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "README.md").write_text("nobody needs this")
    (folder / "pytorch_model.bin").write_bytes(b"nor this")
    return folder


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HubStandIn]:
    """One for all tests, so that it has one address: what asks it starts warm."""
    with running_hub() as hub, pytest.MonkeyPatch.context() as environment:
        environment.setenv("HF_ENDPOINT", hub.address)
        environment.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))
        for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
            environment.delenv(name, raising=False)
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            environment.delenv(name, raising=False)
        with starting_warm_here():
            yield hub


@pytest.fixture
def hub(running: HubStandIn, tiny: Path, tmp_path: Path) -> HubStandIn:
    """As if nobody had asked it before."""
    for held in (running.repositories, running.gated, running.damaged, running.asked):
        held.clear()
    running.break_after, running.down = None, False
    running.repositories["some/tiny"] = Path(shutil.copytree(tiny, tmp_path / "hub"))
    return running


def download(
    target: Path, seen: list[JobProgress] | None = None, repository: str = "some/tiny", revision: str | None = None
) -> DownloadOutcome:
    return download_job(repository, revision, target, None if seen is None else seen.append).run()


def test_a_model_is_downloaded_described_and_held_by_the_library(hub: HubStandIn, tmp_path: Path) -> None:
    seen: list[JobProgress] = []
    library = ModelLibrary(tmp_path / "library")
    description = library.add("some/tiny", on_progress=seen.append)
    assert (description.name, description.source, description.origin) == ("tiny", "hub", f"some/tiny@{COMMIT}")
    assert description.path == tmp_path / "library" / "tiny" / "files"
    names = sorted(path.name for path in description.path.iterdir())
    assert names == ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json"]
    assert tensors_of(description.path).keys() == tensors_of(hub.repositories["some/tiny"]).keys()
    downloading = [progress for progress in seen if progress.phase == "downloading"]
    assert downloading[-1].done_bytes == downloading[-1].total_bytes > description.weight_bytes
    assert list((tmp_path / "library" / ".incoming").glob("tiny/*")) == []


def test_chat_templates_besides_the_usual_one_come_along(hub: HubStandIn, tmp_path: Path) -> None:
    files = hub.repositories["some/tiny"]
    (files / "chat_template.jinja").write_text("usual")
    more = files / "additional_chat_templates"
    (more / "older").mkdir(parents=True)
    (more / "tool_use.jinja").write_text("with tools")
    (more / "README.md").write_text("nobody needs this")
    (more / "older" / "tool_use.jinja").write_text("nor this")
    description = ModelLibrary(tmp_path / "library").add("some/tiny")
    found = {path.relative_to(description.path).as_posix() for path in description.path.rglob("*.*")}
    assert {"chat_template.jinja", "additional_chat_templates/tool_use.jinja"} == {
        name for name in found if "README" in name or "jinja" in name
    }
    template = ChatTemplate.open(description.path, {})
    assert template is not None and template.sources == {"default": "usual", "tool_use": "with tools"}


def test_an_interrupted_download_goes_on_where_it_was(hub: HubStandIn, tmp_path: Path) -> None:
    # huggingface_hub writes blocks of 10 MB, so the file has to be larger.
    make_model("llama", hub.repositories["some/tiny"], vocab_size=80_000)
    hub.break_after = 15_000_000
    # Every retry of huggingface_hub finds the hub gone, so the run ends.
    with pytest.raises(ModelError, match=r"cannot be reached.*what has arrived is kept"):
        download(tmp_path / "in")
    (partial,) = (tmp_path / "in").rglob(".partial/model.safetensors")
    arrived = partial.stat().st_size
    assert 0 < arrived <= hub.break_after
    hub.break_after, hub.down = None, False
    hub.asked.clear()
    outcome = download(tmp_path / "in")
    assert ("model.safetensors", f"bytes={arrived}-") in hub.asked
    assert "config.json" not in {name for name, _ in hub.asked}  # it was complete
    original = hub.repositories["some/tiny"] / "model.safetensors"
    assert (Path(outcome.folder) / "model.safetensors").read_bytes() == original.read_bytes()


def test_only_files_of_the_index_are_downloaded(hub: HubStandIn, tmp_path: Path) -> None:
    folder = hub.repositories["some/tiny"]
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    weight_map = dict.fromkeys(tensors_of(folder), "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    (folder / "consolidated.safetensors").write_bytes(bytes(30_000))
    names = {path.name for path in Path(download(tmp_path / "in").folder).iterdir()}
    assert "model-00001-of-00001.safetensors" in names
    assert "consolidated.safetensors" not in names


def test_a_file_that_arrives_damaged_is_thrown_away(hub: HubStandIn, tmp_path: Path) -> None:
    hub.damaged.add("model.safetensors")
    with pytest.raises(ModelError, match=r"'model\.safetensors' of 'some/tiny' arrived damaged"):
        download(tmp_path / "in")
    assert list((tmp_path / "in").rglob("model.safetensors")) == []


def test_pickled_weights_are_refused_before_they_are_downloaded(hub: HubStandIn, tmp_path: Path) -> None:
    (hub.repositories["some/tiny"] / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="'some/tiny' has pickled weights only"):
        download(tmp_path / "in")
    assert {name for name, _ in hub.asked} == {"config.json"}


def test_remote_code_is_refused_before_weights_are_downloaded(hub: HubStandIn, tmp_path: Path) -> None:
    config = hub.repositories["some/tiny"] / "config.json"
    fields = {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    config.write_text(json.dumps({**json.loads(config.read_text()), **fields}))
    with pytest.raises(ModelError, match=r"'mine'; transformers does not know it, and the Python code .* is not run"):
        download(tmp_path / "in")
    assert {name for name, _ in hub.asked} == {"config.json"}


def test_a_way_of_quantizing_that_cannot_be_run_is_refused_before_weights_are_downloaded(
    hub: HubStandIn, tmp_path: Path
) -> None:
    change_json(hub.repositories["some/tiny"] / "config.json", quantization_config={"quant_method": "quanto"})
    with pytest.raises(ModelError, match="the method is"):
        download(tmp_path / "in")
    assert {name for name, _ in hub.asked} == {"config.json"}


def test_a_quantized_model_is_held_in_blocks_and_what_was_downloaded_goes(hub: HubStandIn, tmp_path: Path) -> None:
    pack, said, format_ = FORMATS["GPTQ, 4 bits, symmetric"]
    write_quantized(tmp_path / "made", pack, said)
    hub.repositories["some/GPTQ"] = tmp_path / "made"
    description = ModelLibrary(tmp_path / "library").add("some/GPTQ")
    assert (description.source, description.origin) == ("hub", f"some/GPTQ@{COMMIT}")
    assert {tensor.dtype for part in description.parts for tensor in part.tensors} == {format_, "F16"}
    held = sorted(path.name for path in (tmp_path / "library" / "GPTQ").iterdir())
    assert held == ["files", "model.json"]
    assert list((tmp_path / "library" / ".incoming").glob("GPTQ/*")) == []


def test_code_that_is_not_needed_is_left_on_the_hub(hub: HubStandIn, tmp_path: Path) -> None:
    folder = hub.repositories["some/tiny"]
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "auto_map": {"AutoConfig": "mine.Config"}}))
    (folder / "mine.py").write_text("raise SystemExit")
    assert (Path(download(tmp_path / "in").folder) / "model.safetensors").is_file()
    assert "mine.py" not in {name for name, _ in hub.asked}


def test_a_whole_file_is_downloaded_in_spite_of_an_index_of_others(hub: HubStandIn, tmp_path: Path) -> None:
    index = {"weight_map": {"model.norm.weight": "model-00001-of-00002.safetensors"}}
    (hub.repositories["some/tiny"] / "model.safetensors.index.json").write_text(json.dumps(index))
    assert (Path(download(tmp_path / "in").folder) / "model.safetensors").is_file()


def test_a_part_of_a_model_beside_its_index_is_not_taken_for_the_model(hub: HubStandIn, tmp_path: Path) -> None:
    """Some repositories have a file of the usual name that holds a few of the tensors."""
    folder = hub.repositories["some/tiny"]
    tensors = tensors_of(folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors, "model-00001-of-00001.safetensors")})
    )
    few = dict(list(tensors.items())[:2])
    save_file(few, folder / "model.safetensors", {"format": "pt"})
    names = {path.name for path in Path(download(tmp_path / "in").folder).iterdir()}
    assert "model-00001-of-00001.safetensors" in names and "model.safetensors" not in names


def test_a_repository_of_gguf_files_is_pointed_out(hub: HubStandIn, tmp_path: Path) -> None:
    folder = hub.repositories["some/tiny"]
    for path in folder.iterdir():
        path.unlink()
    (folder / "tiny.Q4_0.gguf").write_bytes(b"GGUF")
    with pytest.raises(ModelError, match=r"It has GGUF files: download one, such as tiny\.Q4_0\.gguf"):
        download(tmp_path / "in")


def test_not_found_gated_and_no_such_revision_are_told_apart(hub: HubStandIn, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="There is no 'some/typo' at http://127"):
        download(tmp_path / "in", repository="some/typo")
    with pytest.raises(ModelError, match="has no revision 'v9'"):
        download(tmp_path / "in", revision="v9")
    hub.gated.add("some/tiny")
    with pytest.raises(ModelError, match=r"is gated.*HF_TOKEN"):
        download(tmp_path / "in")


def test_offline_is_said(hub: HubStandIn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match="cannot be reached"):
        download(tmp_path / "in")


def test_a_path_that_is_not_there_is_not_taken_for_a_hub_id(tmp_path: Path) -> None:
    for text in (str(tmp_path / "gone"), "./gone/model", "a/b/c", "gone"):
        with pytest.raises(BadInput, match="There is no such path"):
            ModelLibrary(tmp_path).add(text)
