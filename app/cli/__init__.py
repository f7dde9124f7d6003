"""The command line: one file for each group of commands. All of them drive the controller; none does its work."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from worker_agent.process import settle

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """The program's entry. Without a command the window, which must not wait for the command line's libraries."""
    settle()
    given = sys.argv[1:] if arguments is None else arguments
    if not given:
        sys.exit(open_window())
    from app.cli.root import main as run_command

    run_command(given)


def open_window() -> int:
    """Run the window; its exit code. What stands in its way is said in the terminal."""
    from app.errors import ShardboardError

    try:
        from app.ui.application import run
    except ImportError as error:
        print(
            f"The window cannot be opened: {error}.\nStart it with ./run, which installs what it needs, "
            "or go without: ./run --headless",
            file=sys.stderr,
        )
        return 1
    try:
        return run()
    except ShardboardError as error:
        print(error, file=sys.stderr)
        return error.exit_code
