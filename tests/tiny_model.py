"""Has a tiny model made by a child, for tests whose own process does without torch, as the window's does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

MAKER = "tests.worker_agent.tiny_models"
ROOT = Path(__file__).resolve().parent.parent


def make_model(model_type: str, folder: Path, **changes: object) -> None:
    """`make_model` of `tests.worker_agent.tiny_models`, and nothing comes back but the files."""
    command = [sys.executable, "-m", MAKER, model_type, str(folder), json.dumps(changes)]
    subprocess.run(command, cwd=ROOT, check=True)


def change_json(path: Path, **fields: object) -> None:
    """Set fields of a JSON file; None takes one out."""
    changed = {**json.loads(path.read_text()), **fields}
    path.write_text(json.dumps({name: value for name, value in changed.items() if value is not None}))
