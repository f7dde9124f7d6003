"""`./test`: programs side by side, each one's words in one piece, and a last line that adds up all tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bootstrap.checks import GROUPS, SHORTER_GROUPS, conclude, count, quick_tasks, run_checks, tasks
from bootstrap.lanes import HUNG, Outcome, Task, run_side_by_side
from bootstrap.slow import SLOW
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent


def python(name: str, code: str) -> Task:
    return Task(name, (sys.executable, "-c", code))


def outcome(output: str, status: int = 0, name: str = "tests") -> Outcome:
    return Outcome(Task(name, (), tests=True), status, output, 61.0)


def test_two_programs_run_at_a_time_and_each_is_shown_in_one_piece(tmp_path: Path) -> None:
    meet = """
import pathlib, sys, time
mine, other = {0!r}, {1!r}
print(mine, "begins", flush=True)
pathlib.Path(mine).touch()
while not pathlib.Path(other).exists():
    time.sleep(0.01)
print(mine, "ends", flush=True)
"""
    shown: list[str] = []
    one, two = python("one", meet.format("a", "b")), python("two", meet.format("b", "a"))
    three = python("three", "import sys; print('alone', file=sys.stderr); sys.exit(3)")
    ended = run_side_by_side([one, two, three], folder=tmp_path, width=2, show=shown.append)
    assert {each.task.name: each.status for each in ended} == {"one": 0, "two": 0, "three": 3}
    assert {text.partition(" (")[0]: text.splitlines()[1:] for text in shown} == {
        "== one": ["a begins", "a ends"],
        "== two": ["b begins", "b ends"],
        "== three": ["alone"],
    }
    assert ended[-1].task is three, "two at a time"


def test_what_waits_more_than_it_computes_runs_beside_the_others_one_at_a_time(tmp_path: Path) -> None:
    wait = "[time.sleep(0.01) for _ in iter(pathlib.Path({1!r}).exists, True)]"
    meet = f"import pathlib, time; pathlib.Path({{0!r}}).touch(); {wait}"
    beside = replace(python("beside", meet.format("a", "b")), waits=True)
    later = replace(python("later", "import os; print(sorted(os.listdir()))"), waits=True)
    ended = run_side_by_side(
        [beside, later, python("one", meet.format("b", "a"))], folder=tmp_path, width=1, show=lambda text: None
    )
    assert {each.task.name for each in ended if each.status == 0} == {"beside", "later", "one"}
    assert "['a', 'b']" in next(each.output for each in ended if each.task is later), "it came after the other one"


def test_what_runs_beside_the_others_is_told_to_compute_with_one_thread(tmp_path: Path) -> None:
    ask = python("ask", "import os; print(os.environ.get('OMP_NUM_THREADS'), os.environ['HERE'])")
    ended = run_side_by_side(
        [ask, replace(ask, waits=True)], folder=tmp_path, width=1, show=lambda text: None,
        environment={"HERE": "yes", "PATH": os.environ["PATH"]},
    )  # fmt: skip
    assert {each.task.waits: each.output.split() for each in ended} == {False: ["None", "yes"], True: ["1", "yes"]}


def test_a_child_that_stays_behind_keeps_nobody_waiting(tmp_path: Path) -> None:
    sleeper = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid, flush=True)"
    [ended] = run_side_by_side([python("parent", sleeper)], folder=tmp_path, width=1, show=lambda text: None)
    psutil.Process(int(ended.output)).kill()
    assert ended.seconds < 30


@pytest.fixture
def all_cores() -> Iterator[set[int]]:
    """This process may run on all of them, though its own lane has a part."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield os.sched_getaffinity(0)
    os.sched_setaffinity(0, before)


@pytest.mark.skipif(sys.platform != "linux" or os.cpu_count() == 1, reason="no system, or no cores, to give out")
def test_each_lane_has_cores_of_its_own(tmp_path: Path, all_cores: set[int]) -> None:
    ask = "import os, pathlib, time; time.sleep(0.5); print(*os.sched_getaffinity(0)); {0}"
    until = "[time.sleep(0.02) for _ in iter(lambda: pathlib.Path({0!r}).exists(), True)]"
    slow = python("slow", ask.format(until.format("next")))
    first, following = python("first", ask.format("")), python("next", ask.format("pathlib.Path('next').touch()"))
    ended = run_side_by_side([slow, first, following], folder=tmp_path, width=2, show=lambda text: None)
    had = {each.task.name: set(map(int, each.output.split())) for each in ended}
    assert had["slow"] | had["first"] == all_cores and not had["slow"] & had["first"]
    assert had["next"] == had["first"], "whoever follows has the cores of who has ended"


def test_a_program_that_hangs_is_ended_and_the_run_goes_on(tmp_path: Path) -> None:
    hanging = python("hanging", "import time; print('all well so far', flush=True); time.sleep(600)")
    talking = python("talking", "import time; [print(i, flush=True) or time.sleep(0.2) for i in range(15)]")
    ended = run_side_by_side(
        [hanging, talking, python("next", "pass")], folder=tmp_path, width=2, show=lambda text: None, silent_seconds=2
    )
    status = {each.task.name: each.status for each in ended}
    assert status == {"hanging": HUNG, "talking": 0, "next": 0}
    [said] = [each.output for each in ended if each.task is hanging]
    assert said.startswith("all well so far") and "said nothing for 2 s" in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_an_interrupt_reaches_what_runs_and_waits_until_it_has_cleaned_up(tmp_path: Path) -> None:
    task = """
import pathlib, time
try:
    pathlib.Path("began").touch()
    time.sleep(60)
finally:
    time.sleep(0.5)
    pathlib.Path("cleaned").touch()
"""
    run = f"""
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from bootstrap.lanes import Task, run_side_by_side
command = ({sys.executable!r}, "-c", {task!r})
run_side_by_side([Task("long", command), Task("next", command)], folder=Path({str(tmp_path)!r}), width=1, show=print)
"""
    process = subprocess.Popen([sys.executable, "-c", run], cwd=ROOT, stderr=subprocess.PIPE, start_new_session=True)
    wait_until((tmp_path / "began").exists)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0 and b"KeyboardInterrupt" in said
    assert (tmp_path / "cleaned").exists()


def test_the_last_line_adds_up_the_closing_lines_of_all_groups(capsys: pytest.CaptureFixture[str]) -> None:
    first = outcome("a 9 failed test\n=== 3 passed, 2 skipped, 9 warnings, 4 subtests passed in 5.10s (0:00:05) ===\n")
    second = outcome("\x1b[32m======= \x1b[1m2 passed\x1b[0m in 1.00s\x1b[0m ====\n")
    check = Outcome(Task("a linter", ()), 0, "5 failed in 1.00s", 1.0)
    assert conclude([first, second, check], 66.6, quick=False) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "5 passed, 0 failed, 2 skipped in 66.60s (1:06)"


@pytest.mark.parametrize(
    ("output", "status", "failed"),
    [
        ("=== 2 failed, 3 passed in 5.10s ===", 1, 2),
        ("=== 3 passed, 1 error in 5.10s ===", 1, 1),
        ("=== no tests ran in 0.10s ===", 5, 1),
        ("=== 7 deselected in 0.10s ===", 5, 1),
        ("tests/test_one.py ....", -11, 1),
        ("=== 3 passed in 5.10s ===\nFatal Python error: Aborted", -6, 1),
        ("", 0, 1),
    ],
)
def test_what_failed_broke_off_or_ran_nothing_fails_the_run(
    capsys: pytest.CaptureFixture[str], output: str, status: int, failed: int
) -> None:
    assert conclude([outcome("=== 4 passed in 1.00s ==="), outcome(output, status, "bad")], 1.0, quick=False) == 1
    said = capsys.readouterr().out.splitlines()
    assert f", {failed} failed, " in said[-1]
    assert said[-2] == f"== failed: bad (status {status})"


def test_what_failed_is_said_again_at_the_end(
    tmp_path: Path, without_plugins: None, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "test_one.py").write_text(
        "def test_bad():\n    for line in range(100): print('said', line)\n    assert 1 == 2, 'the reason'\n"
        "def test_worse():\n    raise OSError('another ' + 'reason')\n"
    )
    (tmp_path / "test_two.py").write_text("def test_good(): print('nothing of it')\n")
    groups = [Task(name, (sys.executable, "-m", "pytest", f"test_{name}.py"), tests=True) for name in ("one", "two")]
    ended = run_side_by_side(
        [*groups, python("lint", "print('line 7'); exit(2)")], folder=tmp_path, width=2, show=lambda _: None
    )
    assert conclude(ended, 1.0, quick=False) == 1
    told = capsys.readouterr().out
    first = told.index("== what failed in one\n")
    assert (
        first < told.index("AssertionError: the reason") < told.index("said 88") < told.index("OSError: another reason")
    )
    assert told.index("OSError: another reason") < told.index(
        "FAILED test_one.py::test_bad - AssertionError: the reason"
    )
    assert "said 87" not in told, "only the last lines of what it had printed"
    assert "== what failed in lint\nline 7\n" in told
    assert "what failed in two" not in told
    assert "test_two" not in told


def test_an_endless_account_of_what_failed_is_cut_at_whole_lines(capsys: pytest.CaptureFixture[str]) -> None:
    lines = "".join(f"E   line {number} of many\n" for number in range(2_000))
    conclude([outcome(f"== FAILURES ==\n{lines}=== 1 failed in 1.00s ===\n", status=1)], 1.0, quick=False)
    told = capsys.readouterr().out
    assert len(told) < 8_000
    assert "[...]\nE   line" in told
    assert "line 1999 of many" in told


def test_a_check_that_fails_fails_the_run_and_no_test(capsys: pytest.CaptureFixture[str]) -> None:
    check = Outcome(Task("mypy", ()), 1, "Found 1 error", 1.0)
    assert conclude([outcome("=== 4 passed in 1.00s ==="), check], 1.0, quick=False) == 1
    assert "4 passed, 0 failed, 0 skipped" in capsys.readouterr().out.splitlines()[-1]


def test_a_quick_run_says_what_it_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert conclude([outcome("=== 4 passed in 1.00s ===")], 1.0, quick=True) == 0
    said = capsys.readouterr().out
    assert all(each in said for each in SLOW)
    assert all(f"--ignore=tests/{each}" in task.command for each in SLOW for task in quick_tasks() if task.tests)
    assert {task.name for task in tasks() if not task.tests} == {task.name for task in quick_tasks() if not task.tests}


def test_every_test_belongs_to_exactly_one_group() -> None:
    def takes(task: Task, file: str) -> bool:
        arguments = task.command[2:]
        left_out = [argument.removeprefix("--ignore=") for argument in arguments if argument.startswith("--ignore=")]
        folders = [argument for argument in arguments if not argument.startswith("--ignore=")] or ["tests"]
        return any(f"{file}/".startswith(f"{path}/") for path in folders) and not any(
            f"{file}/".startswith(f"{path}/") for path in left_out
        )

    assert all((ROOT / path).exists() for group in (*GROUPS, *SHORTER_GROUPS) for path in group.paths)
    files = [path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py")]
    for file in files:
        assert len([task for task in tasks() if task.tests and takes(task, file)]) == 1, file


def test_what_a_quick_run_leaves_out_is_there_to_be_left_out() -> None:
    assert [each for each in SLOW if not (ROOT / "tests" / each).exists()] == []


@pytest.fixture
def without_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of pytest import none that are installed, which takes them two seconds each."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")


def test_a_run_of_pytest_is_counted_as_it_says(tmp_path: Path, without_plugins: None) -> None:
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.fixture\ndef broken():\n    raise OSError\n"
        "def test_good(): pass\n"
        "def test_bad(): assert False\n"
        "def test_worse(broken): pass\n"
        "@pytest.mark.skip\ndef test_left(): pass\n"
    )
    command = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "--color=yes", "--rootdir=.")
    [ended] = run_side_by_side([Task("tests", command, tests=True)], folder=tmp_path, width=1, show=lambda text: None)
    counted = count(ended.output)
    assert (counted["passed"], counted["failed"], counted["skipped"]) == (1, 2, 1), ended.output


def test_arguments_go_to_pytest_alone(tmp_path: Path, without_plugins: None) -> None:
    (tmp_path / "tests" / "e2e").mkdir(parents=True)
    (tmp_path / "tests" / "e2e" / "test_slow.py").write_text("def test_bad(): assert False\n")
    (tmp_path / "tests" / "test_some.py").write_text("def test_good(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    assert run_checks(Path(sys.executable), tmp_path, ["-p", "no:cacheprovider", "-k", "bad"]) == 1
    assert run_checks(Path(sys.executable), tmp_path, ["--quick", "-p", "no:cacheprovider"]) == 0


def test_what_ci_runs_besides_is_there() -> None:
    """A file that was moved would end a whole run with a failure, at its very end."""
    named = re.findall(r"tests/[\w/.]+", (ROOT / ".ci" / "run").read_text(encoding="utf-8"))
    assert named and all((ROOT / path).exists() for path in named), named
