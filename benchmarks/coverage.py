"""Every causal type that transformers knows: does a tiny model of it, cut over stages, answer as transformers does?

    python benchmarks/coverage.py [TYPE …] [--quarter] [--json FILE] [--limit 180] [--verbose]

Prints a line for each type and the counts, and ends with 1 if any answers wrongly without a word. A child process
makes, cuts and runs the models, so that a type that hangs or fills the memory costs nothing but itself.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import IO

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

MEMORY = 3 << 30
"""Bytes that the child may hold before the next type gets a fresh one."""


def work() -> None:
    """The child: a type a line comes in, a verdict a line goes out; nothing else is written there."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # What models print about themselves goes where the log goes.
    os.dup2(2, 1)
    import torch
    import transformers

    from tests.worker_agent.engine.verdicts import judge

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    for line in sys.stdin:
        with tempfile.TemporaryDirectory(prefix="shardboard-coverage-") as folder:
            try:
                verdict = judge(line.strip(), Path(folder))
                found = {"kind": verdict.kind, "way": verdict.way, "why": verdict.why}
            except Exception as error:
                found = {"kind": "failed", "way": "", "why": f"{type(error).__name__}: {error}"[:400]}
        print(json.dumps(found), file=out, flush=True)


class Judge:
    """The child and its verdicts, one at a time."""

    def __init__(self, limit: float, verbose: bool) -> None:
        self.limit, self.verbose = limit, verbose
        self._child: subprocess.Popen[str] | None = None
        self._lines: queue.Queue[str] = queue.Queue()

    def verdict(self, model_type: str) -> dict[str, str]:
        """What became of a type: kind, way, why."""
        child = self._child = self._child or self._start()
        assert child.stdin is not None
        child.stdin.write(model_type + "\n")
        child.stdin.flush()
        try:
            line = self._lines.get(timeout=self.limit)
        except queue.Empty:
            self.close()
            return {"kind": "failed", "way": "", "why": f"took longer than {self.limit:g} s"}
        if not line:
            code = child.wait()
            self.close()
            return {"kind": "failed", "way": "", "why": f"ended the process ({code})"}
        if psutil.Process(child.pid).memory_info().rss > MEMORY:
            self.close()
        found: dict[str, str] = json.loads(line)
        return found

    def _start(self) -> subprocess.Popen[str]:
        child = subprocess.Popen(
            [sys.executable, str(Path(__file__)), "--child"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=None if self.verbose else subprocess.DEVNULL, text=True, encoding="utf-8",
        )  # fmt: skip
        assert child.stdout is not None
        self._lines = queue.Queue()
        threading.Thread(target=_read, args=(child.stdout, self._lines), daemon=True).start()
        return child

    def close(self) -> None:
        """End the child."""
        if self._child is not None:
            self._child.kill()
            self._child.wait()
            self._child = None


def _read(stream: IO[str], lines: queue.Queue[str]) -> None:
    for line in stream:
        lines.put(line)
    lines.put("")


def summary(found: dict[str, dict[str, str]]) -> list[str]:
    """The counts, a line for each kind of verdict."""
    counts = Counter(" ".join(filter(None, (each["kind"], each["way"]))) for each in found.values())
    counts.setdefault("wrong", 0)
    return [f"{count:4d}  {kind}" for kind, count in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help="these types alone")
    parser.add_argument("--quarter", action="store_true", help="the quarter of the types that the tests run")
    parser.add_argument("--json", type=Path, help="write the verdicts here, too")
    parser.add_argument("--limit", type=float, default=180, help="seconds for one type")
    parser.add_argument("--verbose", action="store_true", help="show what the models log")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        work()
        return 0
    from tests.worker_agent.causal_types import CAUSAL_TYPES, QUARTER

    unknown = sorted(set(options.types) - set(CAUSAL_TYPES))
    if unknown:
        parser.error(f"transformers knows no causal type {', '.join(unknown)}")
    judge = Judge(options.limit, options.verbose)
    found: dict[str, dict[str, str]] = {}
    try:
        for model_type in options.types or (QUARTER if options.quarter else CAUSAL_TYPES):
            began = time.monotonic()
            each = found[model_type] = judge.verdict(model_type)
            verdict = " ".join(filter(None, (each["kind"], each["way"])))
            why = f": {each['why']}" if each["why"] else ""
            print(f"{model_type:26} {verdict}{why}  [{time.monotonic() - began:.1f} s]", flush=True)
    finally:
        judge.close()
    print(f"\n{len(found)} types", *summary(found), sep="\n")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return 1 if any(each["kind"] == "wrong" for each in found.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
