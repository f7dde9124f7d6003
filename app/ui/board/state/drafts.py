"""The drafts of all models: each starts from what is deployed and lives on until it is changed or deployed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import msgspec
from PySide6.QtGui import QUndoCommand

from app.errors import ShardboardError
from app.models.description import COMPUTE_ITEM_BYTES, ModelDescription
from app.serving import Serving, ServingWish
from app.sharding.arrangement import Arrangement
from app.ui.board.state.memory import BoardMemory
from app.ui.cluster import Cluster
from app.ui.settings import Settings


class DraftChange(QUndoCommand):
    """One step from a draft to the next.

    Args:
        show: takes the draft that is the model's now.
    """

    def __init__(self, show: Callable[[Arrangement], None], text: str, before: Arrangement, after: Arrangement) -> None:
        super().__init__(text)
        self._show, self._before, self._after = show, before, after

    def redo(self) -> None:
        self._show(self._after)

    def undo(self) -> None:
        self._show(self._before)


class Drafts:
    """One arrangement for each model that was looked at."""

    def __init__(self, cluster: Cluster, memory: BoardMemory, settings: Settings) -> None:
        self._cluster, self._memory, self._settings = cluster, memory, settings
        self._drafts: dict[str, Arrangement] = {}
        self._loaded: dict[str, Arrangement | None] = {}
        """What was deployed of each when its draft was last looked at."""
        self._stored: dict[str, Any] = {}
        """From the last start, until the library has told of the model."""

    def of(self, name: str | None) -> Arrangement | None:
        """The draft of a model in the library."""
        if name is None:
            return None
        known = self._drafts.get(name)
        if known is not None:
            return known
        description = self._cluster.model(name)
        if description is None:
            return None
        loaded = self._memory.loaded(name)
        draft = _read(self._stored.pop(name, None), description) or loaded
        if draft is None:
            draft = Arrangement.empty(description, self.default_serving(description))
        draft = self._sane(draft)
        self._drafts[name], self._loaded[name] = draft, loaded
        return draft

    def put(self, draft: Arrangement) -> None:
        self._drafts[draft.model_name] = self._sane(draft)

    def is_loaded(self, draft: Arrangement) -> bool:
        """Whether a draft is what is deployed."""
        loaded = self._memory.loaded(draft.model_name)
        return loaded is not None and _same(draft, loaded)

    def follow(self) -> None:
        """Models or deployments are others: a draft that nobody has changed goes with its deployment."""
        for name, draft in list(self._drafts.items()):
            description = self._cluster.model(name)
            if description is None:
                del self._drafts[name]
                continue
            before, loaded = self._loaded.get(name), self._memory.loaded(name)
            self._loaded[name] = loaded
            if description is not draft.description and description != draft.description:
                self._drafts[name] = self._sane(
                    loaded or Arrangement.empty(description, self.default_serving(description))
                )
            elif loaded is not None and loaded != before:
                untouched = draft.is_untouched or (before is not None and _same(draft, before))
                if untouched and not _same(draft, loaded):
                    self._drafts[name] = self._sane(loaded)

    def forget_nodes(self) -> None:
        """Nodes have gone: their shards have none."""
        if self._cluster.is_loaded:
            self._drafts = {name: self._sane(draft) for name, draft in self._drafts.items()}

    def take_preferences(self) -> None:
        """The preferences are others: what nobody has placed yet begins with them."""
        for name, draft in list(self._drafts.items()):
            if draft.is_untouched and len(draft.pieces) == 1:
                self._drafts[name] = Arrangement.empty(draft.description, self.default_serving(draft.description))

    def default_serving(self, description: ModelDescription) -> Serving:
        """As the preferences say, else as the command line would."""
        dtype, context = self._settings.get("board/dtype"), self._settings.get("board/context")
        wish = ServingWish(
            dtype if dtype in COMPUTE_ITEM_BYTES else None,
            max(1, min(description.max_context, context)) if context else None,
        )
        return wish.completed(description.dtype, description.max_context)

    def save(self) -> dict[str, Any]:
        """Those that somebody has changed, as JSON."""
        kept = dict(self._stored)
        for name, draft in self._drafts.items():
            if not draft.is_untouched or len(draft.pieces) > 1:
                kept[name] = {
                    **asdict(draft.serving),
                    "pieces": [[piece.start, piece.end, piece.node_id] for piece in draft.pieces],
                }
        return kept

    def restore(self, stored: dict[str, Any]) -> None:
        """What `save` returned; read when the library tells of the models."""
        self._stored = dict(stored)
        for name in stored:
            self._drafts.pop(name, None)

    def _sane(self, draft: Arrangement) -> Arrangement:
        if not self._cluster.is_loaded:
            return draft
        return draft.without_nodes({node for node in draft.nodes if node is not None} - set(self._cluster.nodes))


def _same(draft: Arrangement, loaded: Arrangement) -> bool:
    """Whether both are loaded alike: a seam between two shards on one node makes no difference."""
    return draft.serving == loaded.serving and draft.joined().pieces == loaded.joined().pieces


def _read(stored: Any, description: ModelDescription) -> Arrangement | None:
    """None for what is not there, was edited by hand, or belongs to another model of that name."""
    try:
        serving = msgspec.convert({name: stored[name] for name in Serving.__slots__ if name in stored}, Serving)
        pieces = [(int(start), int(end), None if node is None else int(node)) for start, end, node in stored["pieces"]]
        return Arrangement.of_ranges(description, serving, pieces)
    except (TypeError, KeyError, ValueError, msgspec.ValidationError, ShardboardError):
        return None
