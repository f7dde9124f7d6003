"""A machine with nothing but the wheel: packages of a few bytes stand in for what an index would offer."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def make_wheel(folder: Path, name: str, version: str, files: dict[str, str]) -> Path:
    """A wheel as pip installs it, with the given files in it."""
    info = f"{name}-{version}.dist-info"
    contents = {
        **files,
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*contents, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**contents, f"{info}/RECORD": record}.items():
            archive.writestr(path, text)
    return wheel


COPIES_PIP = """
import sys
if "venv" in sys.orig_argv:
    import pathlib, shutil, venv
    def copy_pip(builder, context):
        [site] = pathlib.Path(context.env_dir).glob("lib/python*/site-packages")
        for folder in {folders!r}:
            shutil.copytree(folder, site / pathlib.Path(folder).name)
    venv.EnvBuilder._setup_pip = copy_pip
"""


@pytest.fixture(scope="session")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Python whose environments get a copy of this one's pip: to install it as ensurepip does takes four seconds.

    For tests that are not about how an environment is made.
    """
    found = importlib.util.find_spec("pip")
    if sys.platform == "win32" or found is None or found.origin is None:
        return sys.executable
    package = Path(found.origin).parent
    folders = [str(package), *map(str, package.parent.glob("pip-*.dist-info"))]
    folder = tmp_path_factory.mktemp("quick") / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    [site] = folder.glob("lib/python*/site-packages")
    (site / "copies_pip.py").write_text(COPIES_PIP.format(folders=folders))
    (site / "copies_pip.pth").write_text("import copies_pip\n")
    return str(folder / "bin" / "python")


@pytest.fixture
def machine_folder(tmp_path: Path) -> Path:
    """A folder as on a machine that got only the launch script, the bootstrap and a wheel."""
    folder = tmp_path / "a folder"
    shutil.copytree(ROOT / "bootstrap", folder / "bootstrap", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "worker_agent" / "launch" / "agent.sh", folder)
    make_wheel(
        folder,
        "shardboard",
        "0.0.1",
        {"worker_agent/__init__.py": "", "worker_agent/__main__.py": "import sys\nprint('agent', sys.argv[1:])\n"},
    )
    return folder


@pytest.fixture
def offline(tmp_path: Path) -> dict[str, str]:
    """The variables of a process whose pip finds only the packages in a folder, and no network."""
    packages = tmp_path / "packages"
    packages.mkdir()
    make_wheel(packages, "torch", "2.13.0+cpu", {"torch.py": "build = 'cpu'\n"})
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    return {
        **kept,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(packages),
        "PIP_RETRIES": "1",
    }
