"""What `./test` runs: linters and the type checker first, pytest last, so that its summary closes the output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Check:
    name: str
    arguments: tuple[str, ...]
    """For the environment's Python."""


CHECKS = (
    Check("ruff check", ("-m", "ruff", "check", ".")),
    Check("ruff format", ("-m", "ruff", "format", "--check", ".")),
    Check("mypy", ("-m", "mypy")),
    Check("import-linter", ("-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-logo")),
)


def run_checks(python: Path, root: Path, pytest_arguments: Sequence[str]) -> int:
    """All checks and all tests, or, with arguments for pytest, only the tests these choose.

    Every check runs even if one before it failed. Returns 0, or 1 if anything failed.
    """
    failed = []
    for check in () if pytest_arguments else CHECKS:
        print(f"== {check.name}", flush=True)
        if subprocess.run([str(python), *check.arguments], cwd=root, check=False).returncode != 0:
            failed.append(check.name)
    if failed:
        print(f"== failed: {', '.join(failed)}. The tests run all the same.", file=sys.stderr, flush=True)
    if not pytest_arguments:
        print("== pytest", flush=True)
    tests = subprocess.run([str(python), "-m", "pytest", *pytest_arguments], cwd=root, check=False).returncode
    return tests or (1 if failed else 0)
