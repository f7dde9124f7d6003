"""The tiny model that the commands are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.programs import make_tiny_model
from worker_agent.model.imports import import_transformers

import_transformers()  # as agents have it, which takes half as long as the whole


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))
