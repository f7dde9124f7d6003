"""Which stage the others of a ring cannot reach, from what agents say of the lines between them: pure."""

from __future__ import annotations

from app.inference.stages import PipelineStage


class CutLines:
    """What agents have said since a step came round last.

    A line that breaks comes back by itself, so it is first connected anew. Only where nothing comes round after that
    either is a stage to be moved: the one that is not reached, or the one that reaches nobody, if that was said of it
    with two others.
    """

    def __init__(self) -> None:
        self._lines: set[tuple[int, int]] = set()
        """Nodes: who does not reach whom."""
        self._last: tuple[PipelineStage, PipelineStage] | None = None
        """Of this epoch."""
        self._silent = False
        """Whether nothing has come round in this epoch."""

    def linked(self) -> None:
        """A new epoch begins."""
        self._silent, self._last = True, None

    def came_round(self) -> None:
        """The ring is whole."""
        self._silent, self._last = False, None
        self._lines.clear()

    def said(self, stage: PipelineStage, following: PipelineStage) -> None:
        """A stage's agent does not reach the next one's."""
        self._lines.add((stage.node_id, following.node_id))
        self._last = stage, following

    @property
    def off(self) -> int | None:
        """The stage that is to be moved; None if none is."""
        if not self._silent or self._last is None:
            return None
        stage, following = self._last
        unreached = {other for node, other in self._lines if node == stage.node_id}
        return stage.stage if len(unreached) > 1 else following.stage
