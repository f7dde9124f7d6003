"""What `./test` runs: linters, the type checker and the tests in groups, two programs at a time.

The groups are runs of pytest of their own on folders and files of their own; whatever is in no group's is run as well,
by one more. Its last line adds up what they counted.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bootstrap.lanes import HUNG, Outcome, Task, clock, run_side_by_side, usable_cores
from bootstrap.slow import SLOW

CHECKS = (
    ("mypy", ("-m", "mypy")),
    ("ruff check", ("-m", "ruff", "check", ".")),
    ("ruff format", ("-m", "ruff", "format", "--check", ".")),
    ("import-linter", ("-c", "from importlinter.cli import lint_imports_command as main; main()", "--no-logo")),
)
"""Names, and arguments for the environment's Python."""


@dataclass(frozen=True)
class Group:
    """Tests that one pytest runs."""

    name: str
    paths: tuple[str, ...]
    waits: bool = False
    """Whether its tests wait more than they compute."""


GROUPS = (
    Group("tests of the agent", ("tests/worker_agent",)),
    Group(
        "tests of faults, and others that wait",
        (
            "tests/faults", "tests/cluster/test_local_agents.py", "tests/e2e/test_told_by_agents.py",
            "tests/ui/test_window_trouble.py",
        ),
        waits=True,
    ),
    Group("tests of HTTP, pages and OpenAI's API", ("tests/api",)),
    Group(
        "tests of systems, models and commands",
        ("tests/cluster", "tests/e2e", "tests/incident", "tests/cli", "tests/models", "tests/sharding"),
    ),
)  # fmt: skip
SHORTER_GROUPS = (Group("tests of the window", ("tests/ui",)),)
"""The longest first, so that two lanes end at about the same time; between these and those comes whatever is in no
group. What lies in another one's folder is that one's. They are few: each imports torch, starts processes that children
are forked of, and deploys the demo's model anew, a quarter of a minute in all."""
QUICK_BESIDE = Group(
    "quick tests of records and window", ("tests/inference", "tests/registry", "tests/runs", "tests/ui")
)
"""About half of the quick ones."""
OTHERS = "all other tests"

QUICK = "--quick"
LANES = 2
"""More programs at a time would need more memory than a small machine has, and more cores."""
_CLOSING = re.compile(r"^=* ?((?:\d+ [a-z ]+(?:, )?)+) in \d+\.\d+s", re.MULTILINE)
_ACCOUNT = re.compile(r"^=+ (?:ERRORS|FAILURES) =+$", re.MULTILINE)
_SUMMARY = re.compile(r"^=+ short test summary info =+$", re.MULTILINE)
_CAPTURED = re.compile(r"^(-+ Captured .* -+\n)((?:(?!-+ Captured |_{4,} |={4,} ).*\n)*)", re.MULTILINE)
CAPTURED_LINES = 12
"""How much of what a failed test had printed or logged is said again."""
ACCOUNT_CHARACTERS, SUMMARY_CHARACTERS = 5_000, 2_000
"""How much of what failed is said again at the end, a program: of the account of it, and of the lines after that."""
_COUNT = re.compile(r"(\d+) ([a-z ]+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def run_checks(python: Path, root: Path, arguments: Sequence[str]) -> int:
    """All checks and all tests; with `--quick` the tests that take long are left out; else what pytest is told to run.

    Every check and every group runs even if one before it failed. Returns 0, or 1 if anything failed.
    """
    quick = QUICK in arguments
    chosen = [argument for argument in arguments if argument != QUICK]
    if chosen:
        ignored = _without(f"tests/{each}" for each in SLOW) if quick else ()
        return subprocess.run([str(python), "-m", "pytest", *ignored, *chosen], cwd=root, check=False).returncode
    began = time.monotonic()
    outcomes = run_side_by_side(
        [replace(task, command=(str(python), *task.command)) for task in (quick_tasks() if quick else tasks())],
        folder=root,
        width=min(LANES, usable_cores()),
        show=lambda text: print(text, flush=True),
        # Hundreds of processes are started: what our modules are compiled to is kept, whoever says otherwise.
        environment={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )
    return conclude(outcomes, time.monotonic() - began, quick)


def tasks() -> list[Task]:
    """Everything."""
    known = (*GROUPS, *SHORTER_GROUPS)
    taken = [path for group in known for path in group.paths]
    groups = [
        pytest(
            group.name,
            *_without(inner for inner in taken if _is_within(inner, group.paths)),
            *group.paths,
            waits=group.waits,
        )
        for group in known
    ]
    return [*groups[: len(GROUPS)], pytest(OTHERS, *_without(taken)), *_checks(), *groups[len(GROUPS) :]]


def quick_tasks() -> list[Task]:
    """The checks, and the tests that take little."""
    quick = _without(f"tests/{each}" for each in SLOW)
    return [
        pytest("quick tests", *quick, *_without(QUICK_BESIDE.paths)),
        *_checks(),
        pytest(QUICK_BESIDE.name, *quick, *QUICK_BESIDE.paths),
    ]


def pytest(name: str, *arguments: str, waits: bool = False) -> Task:
    return Task(name, ("-m", "pytest", *arguments), tests=True, waits=waits)


def _without(paths: Iterable[str]) -> tuple[str, ...]:
    """Arguments by which pytest does not even import what lies there."""
    return tuple(f"--ignore={path}" for path in paths)


def _is_within(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(f"{folder}/") for folder in folders)


def _checks() -> list[Task]:
    return [Task(name, arguments) for name, arguments in CHECKS]


def conclude(outcomes: Sequence[Outcome], seconds: float, quick: bool) -> int:
    """Print what became of a run, its tests' counts added up in the last line. Returns 0 if all is well, else 1.

    A test whose fixture failed counts as failed, and so does a group that ran no test or broke off before it had
    counted them.
    """
    total: Counter[str] = Counter()
    failed = []
    for outcome in outcomes:
        counted = count(outcome.output) if outcome.task.tests else Counter()
        if outcome.status != 0 or (outcome.task.tests and not counted["passed"]):
            failed.append(f"{outcome.task.name} ({'hung' if outcome.status == HUNG else f'status {outcome.status}'})")
            if outcome.task.tests and not counted["failed"]:
                counted["failed"] += 1
        total += counted
    print(f"\n== {', '.join(f'{outcome.task.name} {clock(outcome.seconds)}' for outcome in outcomes)}")
    if quick:
        print(f"== left out, for `./test` to run: {', '.join(SLOW)} (in tests)")
    if failed:
        for outcome in outcomes:
            if outcome.status != 0 and (told := failures(outcome.output)):
                print(f"\n== what failed in {outcome.task.name}\n{told}")
        print(f"== failed: {', '.join(failed)}")
    rest = "".join(f", {total[word]} {word}" for word in ("xfailed", "xpassed") if total[word])
    print(
        f"{total['passed']} passed, {total['failed']} failed, {total['skipped']} skipped{rest} "
        f"in {seconds:.2f}s ({clock(seconds)})",
        flush=True,
    )
    return 1 if failed else 0


def failures(output: str) -> str:
    """What a program said of what failed: pytest's own account, with the last lines of what the tests had printed.

    It is said again at a run's end, for whoever sees only the last page of many.
    """
    output = f"{_COLOURS.sub('', output).rstrip()}\n"
    begins = _ACCOUNT.search(output)
    told = output[begins.start() :] if begins else output
    told = _CAPTURED.sub(lambda each: f"{each[1]}{''.join(each[2].splitlines(keepends=True)[-CAPTURED_LINES:])}", told)
    summary = _SUMMARY.search(told)
    head, tail = (told[: summary.start()], told[summary.start() :]) if summary else ("", told)
    return f"{_end_of(head, ACCOUNT_CHARACTERS)}{_end_of(tail, SUMMARY_CHARACTERS)}"


def _end_of(text: str, characters: int) -> str:
    """All of a text, or its last whole lines, and the word that there was more."""
    if len(text) <= characters:
        return text
    return f"[...]\n{text[-characters:].partition(chr(10))[2]}"


def count(output: str) -> Counter[str]:
    """How many tests passed, failed and so on, by the last closing line in pytest's output; nothing without one."""
    closing = _CLOSING.findall(_COLOURS.sub("", output))
    counted = Counter({word: int(number) for number, word in _COUNT.findall(closing[-1])} if closing else {})
    counted["failed"] += counted.pop("error", 0) + counted.pop("errors", 0)
    return counted
