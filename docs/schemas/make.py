"""Writes run-<version>.json beside this file, from the types. A test holds the two equal.

python docs/schemas/make.py
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

from app.runs.export.jsonl import schema_text  # noqa: E402  (the program's folder has to be known first)
from app.runs.run import VERSION  # noqa: E402

if __name__ == "__main__":
    (HERE / f"run-{VERSION}.json").write_text(schema_text(), encoding="utf-8")
