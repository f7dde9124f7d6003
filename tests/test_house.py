"""The rules of the house, where a program can see them: who imports whom, what is never called, how long a file is."""

from __future__ import annotations

import ast
import functools
import graphlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from bootstrap.machine import CPU_TORCH, DEFAULT_TORCH

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = ("app", "worker_agent", "bootstrap")
LONGEST_FILE = 500
HEAVY = ("torch", "transformers", "accelerate", "PySide6", "pyqtgraph", "numpy")
"""What the controller's process does without: half a second under the interpreter's lock and 300 MB, or a window."""

RUN_IN_CHILDREN = {
    "app.models.rehearsal", "app.models.tokenizer_conversion", "app.models.prequantized_flat",
    "app.models.prequantized_layouts", "app.models.prequantized_matrix", "app.models.prequantized_process",
}  # fmt: skip
"""Modules that import torch, transformers or numpy when imported themselves: only a child process may."""

UNPICKLERS = {"pickle", "cPickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
FORBIDDEN_METHODS = {"recv_pyobj", "send_pyobj", "recv_serialized"}


def sources(*folders: str) -> Iterator[Path]:
    yield ROOT / "main.py"
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> tuple[ast.AST, ...]:
    """Every node of a module, the module itself first: six tests look at them."""
    return tuple(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))


def docstring(path: Path) -> str | None:
    module = parsed(path)[0]
    assert isinstance(module, ast.Module)
    return ast.get_docstring(module)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_imports_keep_to_the_contracts() -> None:
    command = "from importlinter.cli import lint_imports_command as main; main()"
    checked = subprocess.run(
        [sys.executable, "-c", command, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_no_modules_import_each_other_in_a_circle_not_even_for_types() -> None:
    modules = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
               for path in sources(*PROGRAM)}  # fmt: skip
    imports = {
        name: {
            found
            for node in parsed(path)
            if isinstance(node, ast.ImportFrom) and node.module
            for each in node.names
            if (found := full if (full := f"{node.module}.{each.name}") in modules else node.module) in modules
        }
        for name, path in modules.items()
    }
    graphlib.TopologicalSorter(imports).prepare()  # raises CycleError, which names the circle


def test_the_controllers_process_imports_neither_torch_nor_qt_nor_numpy() -> None:
    walk = f"""
import importlib, json, pkgutil, sys
import app
left_out = {sorted(RUN_IN_CHILDREN)!r}
names = [m.name for m in pkgutil.walk_packages(app.__path__, "app.") if not m.name.startswith("app.ui")]
for name in names:
    if name not in left_out:
        importlib.import_module(name)
print(json.dumps([len(names), [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    done = subprocess.run([sys.executable, "-c", walk], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    modules, imported = json.loads(done.stdout.splitlines()[-1])
    assert modules > 10
    assert imported == []


@pytest.mark.parametrize("name", sorted(RUN_IN_CHILDREN))
def test_a_module_that_only_children_import_says_so(name: str) -> None:
    path = ROOT / Path(*name.split(".")).with_suffix(".py")
    assert "child" in (docstring(path) or "").lower()


def test_the_agent_neither_needs_nor_imports_the_controllers_libraries() -> None:
    probe = """
import sys
import worker_agent.__main__
print([name for name in ("app", "PySide6", "peewee", "fastapi", "typer", "rich") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def unsafe_calls(nodes: Iterable[ast.AST]) -> Iterator[tuple[int, str]]:
    """Line and name of everything that could run code out of data or through a shell."""
    for node in nodes:
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, name.name) for name in names if name.name.split(".")[0] in UNPICKLERS)
            case ast.ImportFrom(module=str(module)) if module.split(".")[0] in UNPICKLERS:
                yield node.lineno, module
            case ast.Attribute(value=ast.Name(id="torch"), attr="load"):
                yield node.lineno, "torch.load"
            case ast.Attribute(attr=method) if method in FORBIDDEN_METHODS:
                yield node.lineno, method
            case ast.Call(func=ast.Name(id="eval" | "exec" as called)):
                yield node.lineno, called
            case ast.keyword(arg="shell" | "trust_remote_code" as option, value=ast.Constant(value=value)) if value:
                yield node.value.lineno, f"{option}={value}"
            case ast.keyword(arg="verify" | "weights_only" as option, value=ast.Constant(value=False)):
                yield node.value.lineno, f"{option}=False"


def test_nothing_unpickles_runs_remote_code_or_starts_a_shell() -> None:
    found = [f"{named(path)}:{line}: {what}" for path in sources(*PROGRAM) for line, what in unsafe_calls(parsed(path))]
    assert found == []


@pytest.mark.parametrize(
    "code",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "load = torch.load",
        "socket.recv_pyobj()",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
        "eval(text)",
    ],
)
def test_the_search_for_unsafe_calls_finds_them(code: str) -> None:
    assert list(unsafe_calls(ast.walk(ast.parse(code))))


def test_no_file_is_longer_than_one_can_read() -> None:
    lengths = {
        named(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in sources(*PROGRAM, "tests", "benchmarks")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def test_the_agents_tests_lie_in_the_rooms_that_they_test() -> None:
    code, tests = ROOT / "worker_agent", ROOT / "tests" / "worker_agent"
    rooms = {path.parent.name for path in code.glob("*/__init__.py")}
    assert {path.parent.name for path in tests.glob("*/test_*.py")} == rooms
    outside_rooms = {path.name.removeprefix("test_") for path in tests.glob("test_*.py")}
    assert outside_rooms <= {path.name for path in code.glob("*.py")}, "of modules that lie in no room themselves"


DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
ARCHITECTURE = ROOT / "docs" / "architecture.md"


def files_named(document: Path) -> set[str]:
    """Files in a text, `app/runs/run.py` or `run.py`; of the architecture also all that stands in its drawn trees."""
    text = document.read_text(encoding="utf-8")
    found = set(re.findall(r"`([\w./-]+\.(?:py|html|md|sh|ps1|c))`", text))
    for tree in re.findall(r"^```\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if document == ARCHITECTURE else ():
        found |= set(re.findall(r"(?<![\w/])[\w/]+(?:\.py\b|/(?!\w))", tree))
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=named)
def test_every_file_that_a_document_names_is_there(document: Path) -> None:
    folders = (*PROGRAM, "tests", "benchmarks", "deploy", "docs")
    there = [
        "/main.py",
        "/start.sh",
        *(f"/{named(path)}" for folder in folders for path in (ROOT / folder).rglob("*.*")),
    ]
    files = files_named(document)
    wrong = {
        name for name in files
        if not any(f"/{name}" in path if name.endswith("/") else path.endswith(f"/{name}") for path in there)
    }  # fmt: skip
    assert wrong == set()
    assert document != ARCHITECTURE or len(files) > 100, "its trees are read, too"


def test_every_class_that_the_architecture_names_is_there_and_has_what_is_named_of_it() -> None:
    classes: dict[str, str] = {}
    for path in sources(*PROGRAM):
        lines = path.read_text(encoding="utf-8").splitlines()
        for node in parsed(path):
            if isinstance(node, ast.ClassDef):
                classes[node.name] = "\n".join([classes.get(node.name, ""), *lines[node.lineno - 1 : node.end_lineno]])
    named = re.findall(r"`([A-Z][a-z]+[A-Za-z]*)(?:\.(\w+))?`", ARCHITECTURE.read_text(encoding="utf-8"))
    assert len(named) > 40
    wrong = [
        f"{name}.{part}" if part else name
        for name, part in named
        if name not in classes or not re.search(rf"\b{part}\b", classes[name])
    ]
    assert wrong == []


def test_no_icon_lies_idle() -> None:
    code = "".join(path.read_text(encoding="utf-8") for path in sources("app"))
    idle = [path.stem for path in (ROOT / "resources" / "icons").glob("*.svg") if f'"{path.stem}"' not in code]
    assert idle == []


def test_every_module_says_what_it_is() -> None:
    silent = [named(path) for path in sources(*PROGRAM) if len(parsed(path)) > 1 and docstring(path) is None]
    assert silent == []


def test_qt_stays_below_the_release_that_dies_on_python_3_11() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "PySide6-Essentials>=6.11.3,<6.12" in project["optional-dependencies"]["window"]


def test_set_up_asks_for_the_torch_that_the_project_allows_and_new_releases_wait_until_they_were_tested() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [torch] = [each for each in project["dependencies"] if each.startswith("torch")]
    [transformers] = [each for each in project["dependencies"] if each.startswith("transformers")]
    assert torch == DEFAULT_TORCH
    lowest, below = (tuple(map(int, each.split("."))) for each in re.findall(r"\d+\.\d+", torch))
    assert lowest <= tuple(map(int, CPU_TORCH.partition("==")[2].split(".")[:2])) < below
    assert re.fullmatch(r"transformers>=\d+\.\d+,<\d+\.\d+", transformers), "bounded by a minor release"


def test_what_an_agent_depends_on_holds_none_of_the_controllers_libraries() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = {requirement.split(">")[0].split("[")[0].lower() for requirement in project["dependencies"]}
    assert names.isdisjoint({"peewee", "pyside6-essentials", "fastapi", "uvicorn", "typer", "rich", "huggingface_hub"})


def test_the_bootstrap_needs_only_the_standard_library() -> None:
    foreign = {
        f"{named(path)}: {module}"
        for path in (ROOT / "bootstrap").glob("*.py")
        for node in parsed(path)
        for module in imported_names(node)
        if module != "bootstrap" and module not in sys.stdlib_module_names
    }
    assert foreign == set()


def imported_names(node: ast.AST) -> list[str]:
    match node:
        case ast.Import(names=names):
            return [name.name.split(".")[0] for name in names]
        case ast.ImportFrom(module=str(module)):
            return [module.split(".")[0]]
        case _:
            return []


CLOCK_READERS = {
    "app/cluster/health.py": "when something was heard of a node, for people to read",
    "app/cluster/nodes.py": "when an agent's start began, for people to read",
    "app/inference/request_run.py": "when a request began and ended; how old one is that an earlier controller began",
    "app/cluster/ghosts.py": "whether a node has been silent for days, which somebody then may remove",
    "worker_agent/host/owner.py": "whether it is an hour at which the machine's owner wants it",
    "worker_agent/host/probing.py": "how far two machines' clocks are apart, for people to read",
    "app/inference/chat_template.py": "today's date, which some models' templates put into the prompt",
}
"""Modules of what runs answers that may ask for the time of day, and what for: it decides nothing there."""


def test_the_time_of_day_decides_nothing_where_answers_are_run() -> None:
    """Clocks are set back and forward while answers run; what waits or measures goes by one that nobody sets."""
    found = {
        named(path)
        for folder in ("worker_agent", "app/cluster", "app/inference", "app/sharding")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for node in parsed(path)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and (node.value.id, node.attr) in TIME_OF_DAY
    }
    assert found == set(CLOCK_READERS)


TIME_OF_DAY = {
    *(("time", name) for name in ("time", "time_ns", "localtime", "gmtime", "ctime", "strftime", "clock_gettime")),
    *(("datetime", name) for name in ("now", "utcnow", "today")), ("date", "today"),
}  # fmt: skip
