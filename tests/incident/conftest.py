"""Two real agents, a small model with a tokenizer, and bundles to take apart."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.incident.archive import write_archive
from app.incident.bundle import Bundle, make_bundle
from app.incident.comparison import Comparison
from app.incident.contents import MANIFEST
from app.incident.replay import replay
from app.paths import Home
from app.registry import RequestRecord
from app.serving import ServingWish
from tests.e2e.conftest import System, open_system
from tests.inference import tiny_tokenizers
from tests.tiny_model import make_model

MODEL = "speaker"


@pytest.fixture(scope="session")
def speaker(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A llama of seven layers that speaks nonsense for as long as it is asked to."""
    folder = tmp_path_factory.mktemp("models") / MODEL
    tokenizer = tiny_tokenizers.byte_level()
    size = tokenizer.get_vocab_size() + 1
    make_model("llama", folder, vocab_size=size, max_position_embeddings=4096, eos_token_id=1)
    return tiny_tokenizers.save(folder, tokenizer)


@pytest.fixture(scope="package")
def pair(tmp_path_factory: pytest.TempPathFactory, speaker: Path) -> Iterator[System]:
    """Two agents with the model over both."""
    root = tmp_path_factory.mktemp("incident")
    with open_system(Home(root=root, models=root / "models").create()) as system:
        system.launch(2)
        system.run(system.controller.add_model(str(speaker), name=MODEL))
        deploy(system)
        yield system


def deploy(system: System, layers: str = "0-2,3-6", kv_dtype: str = "computed") -> None:
    count = layers.count(",") + 1
    nodes = [node.id for node in system.nodes[:count]]
    wish = ServingWish(dtype="float32", context=4096, kv_tokens=8192, kv_dtype=kv_dtype, wait_seconds=0)
    system.run(system.controller.deploy(MODEL, nodes=nodes, layers=layers, serving=wish))


def bundled(system: System, request: RequestRecord) -> bytes:
    return system.run(make_bundle(system.controller, request.id))


def again(system: System, data: bytes, **how: Any) -> Comparison:
    return system.run(replay(system.controller, Bundle.read(data), **how))


def files_of(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def forged(data: bytes, name: str, change: Callable[[Any], None]) -> bytes:
    """The bundle with a JSON file changed and the manifest's hash of it mended."""
    files = files_of(data)
    content = msgspec.json.decode(files[name])
    change(content)
    files[name] = msgspec.json.encode(content)
    return sealed(files)


def sealed(files: dict[str, bytes]) -> bytes:
    """A zip whose manifest names these files as they are."""
    manifest = msgspec.json.decode(files[MANIFEST])
    manifest["files"] = [
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in files.items()
        if name != MANIFEST
    ]
    return write_archive({**files, MANIFEST: msgspec.json.encode(manifest)})
