"""Reads all of one run for the detail pane, in a thread; the latest wish counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from app.errors import RegistryError
from app.ui.bridge import Bridge
from app.ui.paging.listing import RowId
from app.ui.runs.story import Story, deployment_story, job_story, request_story

if TYPE_CHECKING:
    from app.registry import Registry

EVENTS = 50


class RunReader(QObject):
    """`read` brings the Story of a run, or None for one that is gone."""

    read_done = Signal(object)
    failed = Signal(object)

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._number = 0

    def read(self, noun: str, id: RowId, nodes: Mapping[int, str]) -> None:
        self._number += 1
        number = self._number

        def work(registry: Registry) -> tuple[int, Story | None]:
            return number, _story(registry, noun, id, nodes)

        call = self._bridge.read(work, "reading the run")
        call.done.connect(self._on_done)
        call.failed.connect(self.failed)

    def forget(self) -> None:
        """What is being read is not wanted any more."""
        self._number += 1

    @Slot(object)
    def _on_done(self, answer: tuple[int, Story | None]) -> None:
        number, story = answer
        if number == self._number:
            self.read_done.emit(story)


def _story(registry: Registry, noun: str, id: RowId, nodes: Mapping[int, str]) -> Story | None:
    try:
        if noun == "deployment":
            record = registry.deployments.get(str(id))
            shards = registry.shards.list(deployment_id=record.id)
            return deployment_story(record, shards, nodes, registry.events.list(deployment_id=record.id, limit=EVENTS))
        if noun == "job":
            return job_story(registry.jobs.get(int(id)))
        return request_story(registry.requests.get(int(id)), registry.events.list(request_id=int(id), limit=EVENTS))
    except RegistryError:  # removed meanwhile
        return None
