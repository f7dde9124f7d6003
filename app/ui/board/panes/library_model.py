"""The models of the library as rows, to be dragged onto the board; what is dropped on them becomes a new model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PySide6.QtCore import QByteArray, QMimeData, QModelIndex, QObject, Qt, Signal, Slot

from app.figures import count_text, size_text
from app.models.description import ModelDescription
from app.ui.board.panes.two_lines import Row
from app.ui.board.state.lanes import MIME_MODEL
from app.ui.cluster import Cluster
from app.ui.list_delegate import Index
from app.ui.list_model import ListModel

URIS = "text/uri-list"


class LibraryModel(ListModel[ModelDescription]):
    """Follows the cluster's mirror row by row, so that the selection stays where it is."""

    paths_dropped = Signal(object)
    """A tuple of Paths: folders and GGUF files from the desktop."""

    def __init__(self, cluster: Cluster, parent: QObject | None = None) -> None:
        super().__init__(cluster.models, parent)
        self._cluster = cluster
        cluster.models_changed.connect(self._on_models)
        cluster.deployments_changed.connect(self._on_deployments)

    def row_of(self, name: str | None) -> QModelIndex:
        """Invalid for a model that is not there."""
        row = next((row for row, model in enumerate(self.rows) if model.name == name), -1)
        return self.index(row) if row >= 0 else QModelIndex()

    # --- what Qt asks ---

    def data(self, index: Index, role: int = Qt.ItemDataRole.DisplayRole) -> Any:
        if (model := self.row(index)) is None:
            return None
        deployed = self._cluster.deployment_of(model.name) is not None
        match role:
            case Qt.ItemDataRole.DisplayRole | Row.KEY:
                return model.name
            case Row.SUBTITLE:
                short = count_text(model.parameters)
                return f"{short} · {model.num_layers} layers · {size_text(model.weight_bytes)}"
            case Row.TAG:
                return "deployed" if deployed else ""
            case Row.IS_GOOD:
                return deployed
            case Qt.ItemDataRole.ToolTipRole:
                words = f"{model.architecture}, {count_text(model.parameters)} parameters, stored as {model.dtype}"
                return f"{model.name}\n{words}\nDrag it onto the board."
            case Qt.ItemDataRole.AccessibleTextRole:
                told = [model.name, f"{count_text(model.parameters)} parameters", f"{model.num_layers} layers"]
                return ", ".join([*told, size_text(model.weight_bytes), *(["deployed"] if deployed else [])])
        return None

    def flags(self, index: Index) -> Qt.ItemFlag:
        base = super().flags(index)
        return base | (Qt.ItemFlag.ItemIsDragEnabled if index.isValid() else Qt.ItemFlag.ItemIsDropEnabled)

    # --- dragging out, dropping in ---

    def mimeTypes(self) -> list[str]:
        return [MIME_MODEL, URIS]

    def mimeData(self, indexes: Sequence[QModelIndex]) -> QMimeData:
        data = QMimeData()
        if indexes:
            data.setData(MIME_MODEL, QByteArray(self.rows[indexes[0].row()].name.encode()))
        return data

    def supportedDragActions(self) -> Qt.DropAction:
        return Qt.DropAction.CopyAction

    def supportedDropActions(self) -> Qt.DropAction:
        return Qt.DropAction.CopyAction | Qt.DropAction.MoveAction | Qt.DropAction.LinkAction

    def canDropMimeData(self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: Index) -> bool:
        return bool(_models_in(data))

    def dropMimeData(self, data: QMimeData, action: Qt.DropAction, row: int, column: int, parent: Index) -> bool:
        paths = _models_in(data)
        if paths:
            self.paths_dropped.emit(paths)
        return bool(paths)

    # --- following ---

    @Slot()
    def _on_models(self) -> None:
        fresh = list(self._cluster.models)
        names = {model.name for model in fresh}
        for row in range(len(self.rows) - 1, -1, -1):
            if self.rows[row].name not in names:
                self.remove(row)
        for row, model in enumerate(fresh):
            if row < len(self.rows) and self.rows[row].name == model.name:
                if self.rows[row] is not model:
                    self.replace(row, model)
            elif any(known.name == model.name for known in self.rows):  # their order is another: rare
                self.reset(fresh)
                return
            else:
                self.insert(row, model)

    @Slot()
    def _on_deployments(self) -> None:
        self.tell_all(Row.TAG, Row.IS_GOOD)


def _models_in(data: QMimeData) -> tuple[Path, ...]:
    """Folders and GGUF files among what is dragged. Folders may have dots in their names: Qwen2.5-0.5B."""
    paths = (Path(url.toLocalFile()) for url in data.urls() if url.isLocalFile())
    return tuple(path for path in paths if path.suffix.lower() == ".gguf" or path.is_dir())
