"""Whose the folder `.venv` is. Set-up writes and clears only what it made itself, and knows that by a mark inside."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from bootstrap.faults import SetupError

MARK = "made-by-shardboard.json"
"""Written into the folder before anything else, so that an interrupted set-up is known as one, too."""
STAMP = "shardboard.json"
"""Written last, as the sign that the environment is complete. Earlier versions wrote no mark, and this all the same."""


class Ownership:
    """What stands at `folder`, and whether the set-up of the project in `root` may write there."""

    def __init__(self, folder: Path, root: Path, own_way: str) -> None:
        """`own_way`: how the user gets an environment of their own to work instead; a sentence."""
        self._folder, self._root, self._own_way = folder, root, own_way

    def check(self) -> None:
        """Pass if nothing is there, an empty folder, or an environment that set-up made for this project.

        Raises:
            SetupError: something else stands there; says what, and what to do.
        """
        folder, away = self._folder, self._moved_away()
        if not os.path.lexists(folder):
            return
        if _is_link(folder):
            target = Path(os.path.realpath(folder))
            if not target.exists():
                raise self._refusal(f"a link to {target}, where nothing is", f"Remove the link (`{_remove(folder)}`)")
            if made_for(folder) != str(self._root):
                raise self._refusal(
                    f"a link to {target}{_whose(target)}", f"Remove the link (`{_remove(folder)}`; {target} stays)"
                )
        elif not folder.is_dir():
            raise self._refusal("a file", f"Move it away ({away})")
        elif not (maker := made_for(folder)):
            if next(folder.iterdir(), None) is None:
                return
            what = "a Python environment" if (folder / "pyvenv.cfg").exists() else "a folder"
            left = "" if what == "a folder" else ", or remove it if an earlier set-up left it half-made"
            raise self._refusal(f"{what} that Shardboard did not make", f"Move it away ({away}){left}")
        elif maker != str(self._root) and _same_folder(Path(maker) / folder.name, folder):
            raise self._refusal(f"the environment of the checkout {maker}, mounted here", "Take that mount away")

    def claim(self) -> None:
        """Mark the folder as made by set-up, before anything is written to it; after `check`."""
        self._folder.mkdir(exist_ok=True)
        mark = {
            "root": str(self._root),
            "note": "Shardboard made this folder and may empty it and make it anew at any time: keep nothing here.",
        }
        unfinished = self._folder / f"{MARK}.unfinished"
        unfinished.write_text(json.dumps(mark, indent=1), encoding="utf-8")
        unfinished.replace(self._folder / MARK)

    def clear(self) -> None:
        """Empty the folder for an environment made anew; links in it are removed, not followed. After `check`.

        Raises:
            SetupError: it is a link, and what lies behind that is not emptied.
        """
        if _is_link(self._folder):
            raise self._refusal(
                f"a link to {os.path.realpath(self._folder)}, and the environment there has to be made anew",
                f"Remove the link and what it leads to (`{_remove(self._folder)}`)",
            )
        self.claim()  # what is cleared halfway is still known as ours
        for path in self._folder.iterdir():
            if path.name == MARK:
                continue
            if path.is_dir() and not _is_link(path):
                shutil.rmtree(path)
            else:
                path.unlink()

    def _refusal(self, what: str, advice: str) -> SetupError:
        return SetupError(
            f"{self._folder} is {what}, so it was left as it is.",
            f"{advice}, then start the same command again: Shardboard makes an environment of its own there.\n"
            f"{self._own_way}",
        )

    def _moved_away(self) -> str:
        aside = self._folder.with_name("venv-of-mine")
        command = "ren" if os.name == "nt" else "mv"
        return f'`{command} "{self._folder}" "{aside.name if os.name == "nt" else aside}"`'


def made_for(folder: Path) -> str:
    """The root of the project that set-up made the environment in `folder` for; empty if it did not make it."""
    for name in (MARK, STAMP):
        try:
            return str(json.loads((folder / name).read_text(encoding="utf-8"))["root"])
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return ""


def _is_link(path: Path) -> bool:
    """Whether it leads elsewhere: a symbolic link, or on Windows a junction, which `is_symlink` does not know."""
    if path.is_symlink():
        return True
    here = Path(os.path.realpath(path.parent)) / path.name
    return os.path.normcase(os.path.realpath(path)) != os.path.normcase(here)


def _same_folder(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _whose(target: Path) -> str:
    maker = made_for(target)
    if maker:
        return f", the environment of the checkout {maker}"
    return ", a Python environment" if (target / "pyvenv.cfg").exists() else ""


def _remove(folder: Path) -> str:
    return f'rmdir "{folder}"' if os.name == "nt" else f'rm "{folder}"'
