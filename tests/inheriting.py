"""Starts a command as a careless parent would: with signals ignored, streams closed, a strange umask and the like."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

_WRAPPER = """
import json, os, resource, signal, sys, tempfile
wish, command = json.loads(sys.argv[1]), sys.argv[2:]
for name in wish["ignored"]:
    signal.signal(getattr(signal, name), signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [getattr(signal, name) for name in wish["blocked"]])
if wish["files"]:
    resource.setrlimit(resource.RLIMIT_NOFILE, tuple(wish["files"]))
if wish["folder_gone"]:
    gone = tempfile.mkdtemp()
    os.chdir(gone)
    os.rmdir(gone)
os.environ.update(wish["variables"])
if wish["umask"] is not None:
    os.umask(wish["umask"])
for number in wish["closed"]:
    os.close(number)
os.execvp(command[0], command)
"""


def inheriting(
    *command: str,
    ignored: Sequence[str] = (),
    blocked: Sequence[str] = (),
    closed: Sequence[int] = (),
    umask: int | None = None,
    files: tuple[int, int] | None = None,
    folder_gone: bool = False,
    variables: Mapping[str, str] | None = None,
) -> list[str]:
    """The command line that runs `command` so; POSIX only.

    Args:
        ignored, blocked: names of signals, as "SIGINT".
        closed: which of 0, 1, 2 (standard input, output, error) it gets closed.
        umask: what is masked of the files that it makes.
        files: how many it may have open, soft and hard limit.
        folder_gone: its working directory has been removed.
        variables: of the environment, besides those of this process.
    """
    wish = {
        "ignored": ignored, "blocked": blocked, "closed": closed, "umask": umask, "files": files,
        "folder_gone": folder_gone, "variables": dict(variables or {}),
    }  # fmt: skip
    return [sys.executable, "-c", _WRAPPER, json.dumps(wish), *command]
