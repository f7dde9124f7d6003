"""Those who wait for a deployment to be mended: requests, which are told what is done, and the job that shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

from app.children.work import NodeProgress
from app.inference.deployer import OnProgress


@dataclass(eq=False)
class Onlookers:
    """Of one mending. Any of them may cancel it.

    Args:
        on_loading: called when stages have to be loaded, unless a job shows it already.
    """

    on_loading: Callable[[], None]

    listeners: list[Callable[[str], None]] = field(default_factory=list)
    """Told in a sentence what is being done."""
    followers: list[OnProgress] = field(default_factory=list)
    """Told how far the stages are that have to be loaded."""
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    what: str = ""
    is_shown: bool = False
    """Whether a job shows it, or will."""

    def tell(self, what: str) -> None:
        self.what = what
        for listener in self.listeners:
            listener(what)

    def loads(self) -> None:
        """Stages have to be loaded."""
        if not self.is_shown:
            self.is_shown = True
            self.on_loading()

    def progressed(self, progress: NodeProgress) -> None:
        for follower in self.followers:
            follower(progress)
