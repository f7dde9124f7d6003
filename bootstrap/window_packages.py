"""What Linux needs for a window besides the Python packages: Qt's wheels bring Qt, not the system's own libraries.

Looked for the way they will be used: libraries by loading them, programs on the PATH.
"""

from __future__ import annotations

import ctypes
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from bootstrap.faults import SetupError
from bootstrap.machine import Machine
from bootstrap.pip import say
from bootstrap.system_packages import apt_install


@dataclass(frozen=True)
class Needed:
    """A library (its soname) or a program, and the package of Debian and Ubuntu that has it."""

    name: str
    package: str

    @property
    def is_there(self) -> bool:
        if ".so." not in self.name:
            return shutil.which(self.name) is not None
        try:
            ctypes.CDLL(self.name)
        except OSError:
            return False
        return True


DRAWING = (
    Needed("libglib-2.0.so.0", "libglib2.0-0"),
    Needed("libGL.so.1", "libgl1"),
    Needed("libEGL.so.1", "libegl1"),
    Needed("libdbus-1.so.3", "libdbus-1-3"),
    Needed("libfontconfig.so.1", "libfontconfig1"),
    Needed("libxkbcommon.so.0", "libxkbcommon0"),
)
"""For Qt at all, also without a screen."""
SCREEN = (
    Needed("libxcb-cursor.so.0", "libxcb-cursor0"),
    Needed("libxcb-icccm.so.4", "libxcb-icccm4"),
    Needed("libxcb-keysyms.so.1", "libxcb-keysyms1"),
    Needed("libxkbcommon-x11.so.0", "libxkbcommon-x11-0"),
    Needed("libxcb-randr.so.0", "libxcb-randr0"),
    Needed("libxcb-shape.so.0", "libxcb-shape0"),
)
"""For a window on X11, besides."""
TEST_PROGRAMS = (
    Needed("xvfb-run", "xvfb"),
    Needed("xauth", "xauth"),
    Needed("xdotool", "xdotool"),
    Needed("chromium", "chromium"),
    Needed("chromedriver", "chromium-driver"),
)
"""For the tests with a real mouse on a screen of their own and those of pages in a real browser, besides."""

NO_DISPLAY = (
    "There is no display to open a window on.\n"
    "Use it in the terminal: ./run --headless, or see ./run --help. Over SSH: ssh -X."
)


def opens_window(arguments: Sequence[str]) -> bool:
    """Whether `run` with these arguments opens the window: without any it does, everything else is the terminal's."""
    return not arguments


def has_display(system: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a window can appear somewhere. macOS and Windows always have a place for it."""
    names = ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM")
    return system != "Linux" or any(environment.get(name) for name in names)


def needed_for_window(environment: Mapping[str, str] = os.environ) -> tuple[Needed, ...]:
    """What a window needs on the display at hand: X11's libraries only where X11 will be asked."""
    other = environment.get("QT_QPA_PLATFORM", "xcb").split(":")[0] not in ("", "xcb")
    return DRAWING if other or environment.get("WAYLAND_DISPLAY") else DRAWING + SCREEN


def missing(needed: Sequence[Needed]) -> tuple[Needed, ...]:
    return tuple(each for each in needed if not each.is_there)


def provide_for_window(system: str, look: Callable[[], Machine] = Machine.look) -> None:
    """Before the window opens; a matter of milliseconds when nothing is missing.

    Raises:
        SetupError: something is missing and cannot be installed from here; names all of it.
    """
    lacking = missing(needed_for_window()) if system == "Linux" else ()
    if not lacking:
        return
    machine = look()
    if lacking := _install(machine, lacking):
        raise SetupError(
            f"The window needs {_names(lacking)}, which this system lacks.",
            f"{_advice(machine, lacking)} Without a window: ./run --headless",
        )


def provide_for_tests(machine: Machine) -> None:
    """Before the tests; what cannot be installed is named, and the tests that need it will fail."""
    lacking = missing(DRAWING + SCREEN + TEST_PROGRAMS) if machine.system == "Linux" else ()
    if lacking and (lacking := _install(machine, lacking)):
        say(f"The window's tests need {_names(lacking)}, which this system lacks. {_advice(machine, lacking)}")


def _install(machine: Machine, lacking: Sequence[Needed]) -> tuple[Needed, ...]:
    """Install what is missing where that can be done; what is missing still."""
    if machine.debian and machine.root:
        apt_install(*(each.package for each in lacking))
    return missing(lacking)


def _names(lacking: Sequence[Needed]) -> str:
    return ", ".join(each.name for each in lacking)


def _advice(machine: Machine, lacking: Sequence[Needed]) -> str:
    packages = " ".join(each.package for each in lacking)
    if machine.debian:
        return f"Install it: sudo apt-get install {packages}"
    return f"Install the packages of your system that have it (on Debian they are called {packages})."
