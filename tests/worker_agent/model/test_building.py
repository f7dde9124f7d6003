"""How the kernels are compiled: where they are kept, and with which compiler."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from worker_agent.model.linears.blocks import building


def test_folders_that_others_may_write_to_give_no_program(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(OSError, match="others may write"):
        building._check_private(tmp_path / "open")


def test_a_compiler_that_fails_is_followed_by_the_next_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    real = shutil.which("gcc") or shutil.which("clang")
    assert real is not None
    for name, line in (("cc", "echo it has expired >&2; exit 1"), ("gcc", f'exec {real} "$@"')):
        (programs / name).write_text(f"#!/bin/sh\nPATH={os.environ['PATH']}\n{line}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(building, "SOURCE", tmp_path / "tiny.c")
    building.SOURCE.write_text("int tiny(void) { return 1; }\n")
    monkeypatch.setattr(building.platformdirs, "user_cache_dir", lambda *_given, **_more: str(tmp_path / "cache"))
    made = building._compiled("tiny.so", (), 4)
    assert made.is_file() and made.parent == tmp_path / "cache" / "kernels"
    (programs / "gcc").unlink()
    building.SOURCE.write_text("int tiny(void) { return 2; }\n")
    with pytest.raises(building._NoCompiler, match="cc could not build them: it has expired"):
        building._compiled("tiny.so", (), 4)
    (programs / "cc").unlink()
    monkeypatch.setattr(building.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(building._NoCompiler, match="install gcc or clang, or the package ziglang"):
        building._compiled("tiny.so", (), 4)
