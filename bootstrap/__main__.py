"""`python bootstrap COMMAND ARGS…`: prepare the environment for a command, then run it there.

Commands: `run` (main.py), `test` (checks and pytest; with `--newest` as newest.py says), `agent` (a worker agent, with
only its dependencies), `prepare-agent` (its environment alone; prints the path of the Python in it), `agent-unit` (the
same, and prints a unit for systemd).
"""

from __future__ import annotations

import os
import platform
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[0] = str(ROOT)  # started as a folder: what Python put there is this folder, not the one above

from bootstrap.agent_unit import agent_unit, cannot_read, how_to_install  # noqa: E402 - found only through the path
from bootstrap.checks import run_checks  # noqa: E402
from bootstrap.environment import OLDEST_PYTHON, Environment  # noqa: E402
from bootstrap.faults import SetupError  # noqa: E402
from bootstrap.inherited import settle  # noqa: E402
from bootstrap.machine import Machine  # noqa: E402
from bootstrap.newest import NEWEST, run_newest  # noqa: E402
from bootstrap.pip import say  # noqa: E402
from bootstrap.system_packages import provide_postgresql  # noqa: E402
from bootstrap.window_packages import (  # noqa: E402
    NO_DISPLAY,
    has_display,
    opens_window,
    provide_for_tests,
    provide_for_window,
)

EXTRAS = {
    "run": ("controller", "window", "http", "ssh"),
    "test": ("controller", "window", "http", "ssh", "postgres", "dev"),
    "agent": (),
    "prepare-agent": (),
    "agent-unit": (),
}


LONG_RUN = frozenset({"ray"})
"""What only tests of the long run need: 80 MB that nobody else should wait for."""


def main(command: str, arguments: Sequence[str]) -> int:
    """Returns the exit code, unless the process becomes the program that it starts."""
    windowed = command == "run" and opens_window(arguments)
    if windowed and not has_display(platform.system()):  # said before minutes of setting up, not after them
        print(NO_DISPLAY, file=sys.stderr)
        return 2
    if command == "test" and NEWEST in arguments:
        provide_for_tests(Machine.look())
        return run_newest(ROOT, EXTRAS[command], arguments)
    environment = Environment(ROOT)
    extras = frozenset(EXTRAS[command]) | (LONG_RUN if command == "test" and "long" in arguments else frozenset())
    if not environment.serves(extras):
        hand_over_to_base(environment)
        environment.ensure(extras)
    match command:
        case "run":
            if windowed:
                provide_for_window(platform.system())
            return become([str(environment.python), str(ROOT / "main.py"), *arguments])
        case "agent":
            # -P: a folder named worker_agent where the user happens to be is not the agent.
            return become([str(environment.python), "-P", "-m", "worker_agent", *arguments])
        case "test":
            machine = Machine.look()
            provide_postgresql(machine)
            provide_for_tests(machine)
            return run_checks(environment.python, ROOT, arguments)
        case "agent-unit":
            print(agent_unit(ROOT, environment.python, arguments))
            print(cannot_read(ROOT) or how_to_install(ROOT), file=sys.stderr)
            return 0
        case _:
            print(environment.python)
            return 0


def become(command: list[str]) -> int:
    """Run the command in place of this process, so that signals and the terminal are its own."""
    if sys.platform == "win32":
        # Windows has no exec that keeps the console waiting: run it as a child, which gets Ctrl-C itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return subprocess.run(command, check=False).returncode
    os.execv(command[0], command)


def hand_over_to_base(environment: Environment) -> None:
    """Started by the environment's own Python, go on with the one it was made from: it may have to be replaced."""
    base = str(sys._base_executable)  # type: ignore[attr-defined] # undocumented, and what venv itself uses
    if sys.prefix == sys.base_prefix or Path(sys.prefix).resolve() != environment.folder.resolve():
        return
    if Path(base).exists():
        sys.exit(become([base, str(Path(__file__).parent), *sys.argv[1:]]))


if __name__ == "__main__":
    if sys.version_info < OLDEST_PYTHON or len(sys.argv) < 2 or sys.argv[1] not in EXTRAS:
        sys.exit(f"Usage: {sys.argv[0]} {'|'.join(EXTRAS)} ARGS…, with Python 3.11 or newer")
    settle()
    try:
        sys.exit(main(sys.argv[1], sys.argv[2:]))
    except SetupError as error:
        say(f"\nShardboard could not be set up. {error.message}\n{error.advice}")
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
