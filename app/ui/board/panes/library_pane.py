"""The model library at the left of the board: choose, add, drag onto the nodes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QModelIndex, QPoint, Signal, Slot
from PySide6.QtWidgets import QFrame, QMenu, QWidget

from app.ui import make
from app.ui.board.panes.library_menu import LibraryMenu
from app.ui.board.panes.library_model import LibraryModel
from app.ui.board.panes.two_lines import Row, TwoLineList
from app.ui.board.state.lanes import Selection
from app.ui.choose import GGUF_FILES, choose_file, choose_folder
from app.ui.icons import icon
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel


class LibraryPane(QFrame):
    """A list of models to choose from and to drag, with a button that adds one."""

    proposed = Signal(str)
    """Enter or a double click: a plan is wanted for this model."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._board, self._workbench = board, board.workbench
        self.model = LibraryModel(self._workbench.cluster, self)
        self.list = TwoLineList(self._workbench.theme, self.model, "board-library", "Models", "box")
        self.list.take_files()
        self.add_button = make.tool("plus", "Add a model", self._on_add)
        self.add_menu = self._make_add_menu()
        title = make.label("Models", "heading")
        head = make.row((title, 1), self.add_button, margins=(2 * SPACING, SPACING, SPACING, 4), spacing=None)
        self._pages = make.stack(self.list, self._empty_page())
        make.column(head, (self._pages, 1), within=self, spacing=0)
        self.model.rowsInserted.connect(self._on_rows)
        self.model.rowsRemoved.connect(self._on_rows)
        self.model.modelReset.connect(self._on_rows)
        self.model.paths_dropped.connect(self.add_paths)
        self.list.selectionModel().currentChanged.connect(self._on_current)
        self.list.activated.connect(self._on_activated)
        self.list.customContextMenuRequested.connect(self._on_menu)
        board.selection_changed.connect(self._on_board)
        board.changed.connect(self._on_board)
        self._on_rows()

    def _make_add_menu(self) -> QMenu:
        menu = QMenu(self)
        menu.addAction(icon("folder-open"), "From a folder…", self.add_folder)
        menu.addAction(icon("file"), "From a GGUF file…", self.add_file)
        menu.addAction(icon("cloud-download"), "From the Hugging Face Hub…", self.add_from_hub)
        menu.addSeparator()
        menu.addAction(icon("sparkles"), "The small demo model", self.add_demo)
        return menu

    def _empty_page(self) -> QWidget:
        page = QWidget()
        text = make.label(
            "No model yet. Add one from a folder, a GGUF file or the Hub, drop it here, or try a small one.",
            "muted",
            wraps=True,
        )
        demo = make.button("Get the demo model", self.add_demo, role="primary")
        other = make.button("Add a model…", self.add_from_hub)
        make.column(
            text, demo, other, make.STRETCH, within=page, margins=(2 * SPACING, SPACING, 2 * SPACING, 2 * SPACING)
        )
        return page

    # --- adding ---

    @Slot()
    def _on_add(self) -> None:
        self.add_menu.popup(self.add_button.mapToGlobal(self.add_button.rect().bottomLeft()))

    @Slot()
    def add_folder(self) -> None:
        choose_folder(self, "Add a model from a folder", self._on_path)

    @Slot()
    def add_file(self) -> None:
        choose_file(self, "Add a model from a GGUF file", self._on_path, GGUF_FILES)

    @Slot(str)
    def _on_path(self, path: str) -> None:
        self.add_paths((Path(path),))

    @Slot()
    def add_from_hub(self) -> None:
        from app.ui.jobs.add_model_dialog import AddModelDialog

        AddModelDialog(self._workbench, self).open()

    @Slot()
    def add_demo(self) -> None:
        self._workbench.jobs.add_demo_model()

    @Slot(object)
    def add_paths(self, paths: Iterable[Path]) -> None:
        """Add each as a model; the jobs dock shows how far it is."""
        for path in paths:
            self._workbench.jobs.add_model(str(path))

    # --- choosing ---

    @Slot()
    def _on_rows(self) -> None:
        self._pages.setCurrentIndex(0 if self.model.rowCount() else 1)
        self._on_board()

    @Slot(QModelIndex, QModelIndex)
    def _on_current(self, current: QModelIndex, previous: QModelIndex) -> None:
        name = current.data(Row.KEY)
        if name is not None and name != self._board.model_name:
            self._board.choose_model(name)

    @Slot(QModelIndex)
    def _on_activated(self, index: QModelIndex) -> None:
        name = index.data(Row.KEY)
        if name is not None:
            self._board.choose_model(name)
            self._board.select(Selection(model=name))
            self.proposed.emit(name)

    @Slot()
    def _on_board(self) -> None:
        """The board may have chosen another model by itself."""
        wanted = self.model.row_of(self._board.model_name)
        if wanted != self.list.currentIndex():
            self.list.setCurrentIndex(wanted)

    @Slot(QPoint)
    def _on_menu(self, at: QPoint) -> None:
        index = self.list.indexAt(at)
        name = index.data(Row.KEY) if index.isValid() else None
        if name is not None:
            self.menu_for(name).popup(self.list.viewport().mapToGlobal(at))
        else:
            self.add_menu.popup(self.list.viewport().mapToGlobal(at))

    def menu_for(self, name: str) -> LibraryMenu:
        """What can be done with a model."""
        return LibraryMenu(self._board, name, self)
