"""The registry as the rest of Shardboard sees it: open it, ask it, close it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from app.errors import RegistryError
from app.registry.api_keys import ApiKeys
from app.registry.comparisons import Comparisons
from app.registry.deployments import Deployments
from app.registry.events import Events
from app.registry.failures import explained
from app.registry.jobs import Jobs
from app.registry.links import Links
from app.registry.location import Location, locate
from app.registry.measurements import Measurements
from app.registry.migration import MIGRATIONS, Migration
from app.registry.models import Models
from app.registry.nodes import Nodes
from app.registry.records import EventLevel
from app.registry.requests import Requests
from app.registry.responses import Responses
from app.registry.shards import Shards
from app.registry.store import Store
from app.registry.traces import Traces

T = TypeVar("T")

INTERRUPTED = "Shardboard ended while this was under way."
THREADS = 8
"""Calls from a loop that may be under way at once."""


class Registry:
    """An open registry. Thread-safe: reads run in the calling thread, writes wait for the disk.

    A loop's thread must do neither: what runs there says `await registry.call(...)`, or writes behind
    (`Requests.begin` and `save`). Everything it raises on purpose is a ShardboardError.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="registry")
        self.nodes = Nodes(store)
        self.models = Models(store)
        self.deployments = Deployments(store)
        self.shards = Shards(store)
        self.requests = Requests(store)
        self.responses = Responses(store)
        self.events = Events(store)
        self.jobs = Jobs(store)
        self.traces = Traces(store)
        self.measurements = Measurements(store)
        self.links = Links(store)
        self.comparisons = Comparisons(store)
        self.api_keys = ApiKeys(store)

    @classmethod
    def open(cls, location: str | Path, *, lock: bool = True, migrations: Path = MIGRATIONS) -> Self:
        """Open the registry at a path (SQLite) or a URL (PostgreSQL), make or update its tables.

        Args:
            lock: be the controller: keep every other one out, and mark as failed what died with the last one.
                Without it, open beside a controller, to look or to leave a note.
            migrations: the folder of migrations; another one is for tests.

        Raises:
            RegistryError: the registry is in use (the text names the process), damaged, of a newer Shardboard,
                another program's, or cannot be reached or written.
            DiskFullError: no room for it or for its backup.
        """
        place = locate(location)
        place.prepare()
        with explained(place):
            store = Store(place, place.lock() if lock else None)
        try:
            _bring_up_to_date(store, place, migrations, locked=lock)
            registry = cls(store)
            if lock:
                registry._end_interrupted()
                registry.requests.go_on_counting()
        except BaseException:
            store.close()
            raise
        return registry

    @property
    def location(self) -> str:
        """The path or URL, without a password."""
        return self._store.location.name

    async def call(self, work: Callable[[Registry], T]) -> T:
        """Do something here without holding up the loop: `await registry.call(lambda known: known.nodes.list())`.

        It runs in a thread of the registry's own, so that it never waits behind long work of others. A caller that is
        cancelled still waits for the end: whatever it does next finds this done.
        """
        try:
            running = asyncio.get_running_loop().run_in_executor(self._threads, work, self)
        except RuntimeError:  # its threads have ended
            raise RegistryError("The registry is closed.") from None
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait({running})
            raise

    def on_changed(self, listener: Callable[[str], None]) -> None:
        """Be told, after each write, what was written: node, model, deployment, shard, request, response, event, job,
        trace, measurement, link, comparison or API key.

        Called in the thread that wrote, so it must be quick. Beats of the heart and epochs are not told.
        """
        self._store.on_changed(listener)

    def close(self) -> None:
        """Finish reads and writes under way, then close. Closing twice does no harm."""
        self._threads.shutdown()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _end_interrupted(self) -> None:
        requests = self.requests.fail_interrupted(INTERRUPTED)
        deployments = self.deployments.fail_interrupted(INTERRUPTED)
        jobs = self.jobs.fail_interrupted(INTERRUPTED)
        if requests or deployments or jobs:
            self.events.add(
                EventLevel.WARNING,
                "registry",
                "Shardboard had ended with work under way, which was marked as failed: "
                f"requests {requests}, deployments being loaded {len(deployments)}, jobs {jobs}.",
                details={"requests": requests, "deployments": deployments, "jobs": jobs},
            )


def _bring_up_to_date(store: Store, place: Location, migrations: Path, *, locked: bool) -> None:
    if locked:
        store.run(lambda database: Migration(place, database, migrations).run())
        return
    if not store.run(lambda database: Migration(place, database, migrations).pending()):
        return
    # Tables may only change when no controller is at work on them.
    guard = place.lock()
    store.run(guard.acquire)
    try:
        store.run(lambda database: Migration(place, database, migrations).run())
    finally:
        store.run(guard.release)
