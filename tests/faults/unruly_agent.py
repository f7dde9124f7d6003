"""An agent that loses, doubles and mixes up what it sends, or dies in the midst of it; all else is the agent as it is.

    python -m tests.faults.unruly_agent HABITS <options of an agent>

HABITS is a JSON object of `Habits`. What is done to a message is in the agent's log. Nothing in the product knows of
this: the tests alone start it, and it takes the place of `python -m worker_agent`.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from worker_agent.__main__ import main
from worker_agent.host.agent import Agent
from worker_agent.wire.messages import Step, Tokens
from worker_agent.wire.peers import Peers

log = logging.getLogger("worker_agent.unruly")


@dataclass(frozen=True)
class Habits:
    """How often, of all steps and tokens that it sends to other agents and to the controller."""

    seed: int = 0
    lost: float = 0.0
    doubled: float = 0.0
    late: float = 0.0
    """A copy comes once more behind the next message over that line."""
    overtaken: float = 0.0
    """The message itself comes only behind the next one."""
    dies_before: int = 0
    """It has computed this many steps and is killed before it sends the last of them; 0 is never."""


class Unruly:
    """Stands before what sends a message. Belongs to the I/O thread."""

    def __init__(self, habits: Habits) -> None:
        self._habits, self._random = habits, random.Random(habits.seed)
        self._behind: defaultdict[object, list[Callable[[], Any]]] = defaultdict(list)
        """By line: what comes behind the next message."""
        self._sent = 0

    def send(self, line: object, send: Callable[[], Any]) -> Any:
        """Do with a message as is its habit; what sending gave, or that it was taken."""
        self._sent += 1
        if self._sent == self._habits.dies_before:
            log.warning("unruly: killed")
            logging.shutdown()
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        behind = self._behind.pop(line, [])
        name = self._habit()
        if name:
            log.warning("unruly: %s", name)
        if name in ("late", "overtaken"):
            self._behind[line].append(send)
        result: Any = True
        for _ in range({"lost": 0, "overtaken": 0, "doubled": 2}.get(name, 1)):
            result = send()
        for each in behind:
            each()
        return result

    def _habit(self) -> str:
        """What is done to this message; empty where it is sent as it is."""
        what = self._random.random()
        for name in ("lost", "doubled", "late", "overtaken"):
            what -= getattr(self._habits, name)
            if what < 0:
                return name
        return ""


def make_unruly(habits: Habits) -> None:
    """From now on this process's agent sends what it has to send so."""
    unruly, push, to_owner = Unruly(habits), Peers.push, Agent._to_owner

    def unruly_push(peers: Peers, name: Any, message: Any, payload: Any) -> bool | None:
        taken: bool | None = unruly.send(name, partial(push, peers, name, message, payload))
        return taken

    def unruly_to_owner(agent: Agent, deployment: str, message: Any) -> None:
        if isinstance(message, Tokens | Step):
            unruly.send(deployment, partial(to_owner, agent, deployment, message))
        else:
            to_owner(agent, deployment, message)

    Peers.push = unruly_push  # type: ignore[method-assign]
    Agent._to_owner = unruly_to_owner  # type: ignore[method-assign]


if __name__ == "__main__":
    make_unruly(Habits(**json.loads(sys.argv.pop(1))))
    main()
