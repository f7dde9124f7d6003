"""The first file of a bundle: what is inside, and what to think of before it is handed on."""

from __future__ import annotations

from collections.abc import Sequence

from app.incident.contents import (
    CONTROLLER_LOG,
    EVENTS,
    LOGS,
    MANIFEST,
    NODES,
    PLAN,
    REQUEST,
    RUN,
    VERSIONS,
    Contents,
)
from worker_agent import __version__

_FILES = {
    MANIFEST: "what this bundle is, and the SHA-256 of every other file",
    REQUEST: "what runs again: the prompt's token ids, parameters, seed, stop texts; and the token ids it brought",
    RUN: "the whole record: prompt, answer, each token's time on each stage, events, memory, error",
    PLAN: "which layers were on which node",
    VERSIONS: "the software that ran, and that made this bundle",
    NODES: "the machines as they were: processor, device, software",
    EVENTS: "what happened to the run and its nodes meanwhile, a line each",
    CONTROLLER_LOG: "the controller's log around that time",
}


def readme(contents: Contents, names: Sequence[str]) -> str:
    """Plain text.

    Args:
        names: of the other files in the bundle.
    """
    run, request = contents.run, contents.request
    if request.kept:
        private = (
            "This bundle holds the prompt and the answer, word for word and as token ids. Whoever gets it can read\n"
            "them. It also names the nodes with their addresses. Keys, tokens, home folders and the name of who\n"
            "asked were taken out; logs were searched for them, but look yourself before you hand this on.\n"
        )
        again = f"To run it again and compare token by token:\n\n    python main.py replay incident-{request.id}.zip\n"
    else:
        private = (
            "The settings said that texts are not kept, so neither prompt nor answer is in here. The nodes are named\n"
            "with their addresses. Keys, tokens, home folders and the name of who asked were taken out; logs were\n"
            "searched for them, but look yourself before you hand this on.\n"
        )
        again = "Without its tokens the request cannot be run again.\n"
    error = f"error      {' '.join(run.error.split())}\n" if run.error else ""
    files = "".join(f"{name:<24}{_FILES.get(name, _about(name))}\n" for name in (MANIFEST, *names))
    return (
        f"Incident bundle of request {request.id}, made by Shardboard {__version__}\n\n"
        f"model      {run.model}\n"
        f"status     {run.status}\n"
        f"began      {run.created_at:%Y-%m-%d %H:%M:%S} UTC\n"
        f"tokens     {len(request.prompt_token_ids)} of the prompt, {len(request.token_ids)} of the answer\n"
        f"{error}\n"
        f"{private}\n"
        f"Files\n\n{files}\n"
        f"{again}"
    )


def _about(name: str) -> str:
    return "an agent's log around that time" if name.startswith(LOGS) else ""
