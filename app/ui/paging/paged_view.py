"""The table of a PagedModel: keeps selection and place while rows come in, and says how many came in unseen."""

from __future__ import annotations

from collections.abc import Mapping

from PySide6.QtCore import QItemSelectionModel, QModelIndex, Qt, Signal, Slot
from PySide6.QtGui import QKeyEvent, QKeySequence, QResizeEvent
from PySide6.QtWidgets import QAbstractItemView, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.paging.listing import RowId
from app.ui.paging.paged_model import ID_ROLE, PagedModel
from app.ui.tables import Table
from app.ui.theme import SPACING, ThemeKeeper

KEPT_IDS = 30
"""Selected rows that are found again after rows went; each costs a look into an index."""


class PagedView(Table):
    """Rows are selected whole. Enter, Ctrl+C and Del become signals: the screen knows what they mean for its rows."""

    opened = Signal()
    copy_wanted = Signal()
    remove_wanted = Signal()
    selected = Signal()
    """The current row or the selection is another, or its record has come."""
    following_changed = Signal(bool)
    """Whether new rows are shown as they come: while the newest are in sight."""

    def __init__(
        self, model: PagedModel, theme: ThemeKeeper, name: str = "", key: str = "", parent: QWidget | None = None
    ) -> None:
        super().__init__(model, theme, name, key=key, air=2 * SPACING, parent=parent)
        self.paged = model
        self._placing = False
        self._wanted_id: RowId | None = None
        model.kept_ids = self.kept_ids
        self.setSelectionMode(QAbstractItemView.SelectionMode.ExtendedSelection)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        header = self.horizontalHeader()
        header.setSectionsClickable(False)
        # With the table's own, painting the header asks of each column whether all of its rows are selected: a second
        # or two after "select all" among 100,000 rows.
        header.setSelectionModel(QItemSelectionModel(model, header))
        header.setStretchLastSection(False)
        header.setMinimumSectionSize(6 * SPACING)
        self.size_columns(model.columns)
        self.pill = make.button("", None, self, role="primary")
        self.pill.setIcon(icon("arrow-up", self.palette().highlightedText().color()))
        self.pill.setCursor(Qt.CursorShape.PointingHandCursor)
        self.pill.setFocusPolicy(Qt.FocusPolicy.TabFocus)
        self.pill.hide()
        self.pill.clicked.connect(self.show_newest)
        self._settle = make.timer(self, self._hold_or_follow)
        self.verticalScrollBar().valueChanged.connect(self._on_scrolled)
        model.counted.connect(self._on_counted)
        model.placed.connect(self._on_placed)
        model.page_read.connect(self._on_page_read)
        self.doubleClicked.connect(self._on_double_clicked)
        self.selectionModel().currentRowChanged.connect(self._on_current_changed)
        self.selectionModel().selectionChanged.connect(self._on_selection_changed)

    # --- what screens ask ---

    @property
    def is_following(self) -> bool:
        return not self.paged.is_held

    def current_id(self) -> RowId | None:
        return self._id_at(self.currentIndex().row())

    def selected_rows(self) -> list[tuple[int, int]]:
        """Ranges of selected rows, first and last, from the top."""
        ranges = self.selectionModel().selection().toList()
        return sorted((each.top(), each.bottom()) for each in ranges if each.isValid())

    def selected_ids(self) -> tuple[RowId, ...]:
        """Of the selected rows that are at hand."""
        rows = (row for top, bottom in self.selected_rows() for row in range(top, min(bottom, top + 1000) + 1))
        return tuple(id for row in rows if (id := self._id_at(row)) is not None)

    def select_id(self, id: RowId) -> None:
        """Go to a row wherever it is, once its place has been found."""
        self._wanted_id = id
        self.paged.find()

    @Slot()
    def show_newest(self) -> None:
        """Back to the top, and follow."""
        self.paged.hold(False)
        self.scrollToTop()
        self._tell_following()

    def set_following(self, follow: bool) -> None:
        if follow:
            self.show_newest()
        else:
            self.paged.hold(True)
            self._tell_following()

    # --- keeping the place ---

    def kept_ids(self) -> tuple[RowId, ...]:
        """What is in sight comes first: the view stays there. While the newest are shown, that is the top."""
        if self._wanted_id is not None:
            return (self._wanted_id,)
        ids = [self._id_at(self.rowAt(1))] if self.paged.is_held else []
        ids += [self.current_id(), *self.selected_ids()[:KEPT_IDS]]
        return tuple(dict.fromkeys(id for id in ids if id is not None))

    @Slot(object)
    def _on_placed(self, places: Mapping[RowId, int]) -> None:
        wanted, self._wanted_id = self._wanted_id, None
        if wanted is not None:
            if wanted in places:
                self.selectRow(places[wanted])
                self.scrollTo(self.model().index(places[wanted], 0), QAbstractItemView.ScrollHint.PositionAtCenter)
            self.selected.emit()
            return
        if not places:
            self.selected.emit()
            return
        ids = list(places)
        if self.paged.is_held:
            self._placing = True
            self.verticalScrollBar().setValue(places[ids[0]] * self.verticalHeader().defaultSectionSize())
            self._placing = False
        flags = QItemSelectionModel.SelectionFlag
        for place in (places[id] for id in (ids[1:] if self.paged.is_held else ids)):
            index = self.model().index(place, 0)
            if not self.currentIndex().isValid():
                self.selectionModel().setCurrentIndex(index, flags.NoUpdate)
            self.selectionModel().select(index, flags.Select | flags.Rows)
        self.selected.emit()

    @Slot(int)
    def _on_scrolled(self, value: int) -> None:
        if not self._placing and not self._settle.isActive():
            self._settle.start(0)

    @Slot()
    def _hold_or_follow(self) -> None:
        at_top = self.verticalScrollBar().value() <= 0
        if at_top == self.paged.is_held:
            self.paged.hold(not at_top)
            self._tell_following()

    def _tell_following(self) -> None:
        self._show_pill()
        self.following_changed.emit(self.is_following)

    @Slot()
    def _on_counted(self) -> None:
        self._show_pill()

    @Slot()
    def _on_page_read(self) -> None:
        self.selected.emit()

    def _show_pill(self) -> None:
        newer = self.paged.newer if self.paged.is_held else 0
        self.pill.setVisible(newer > 0)
        if newer:
            self.pill.setText(f"{newer:,} new")
            self.pill.setAccessibleName(f"Show {newer:,} new rows")
            self._place_pill()

    def _place_pill(self) -> None:
        self.pill.adjustSize()
        top = self.horizontalHeader().height() + SPACING
        self.pill.move((self.width() - self.pill.width()) // 2, top)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._place_pill()

    # --- keys and selection ---

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.matches(QKeySequence.StandardKey.Copy):
            self.copy_wanted.emit()
        elif event.key() in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
            self.opened.emit()
        elif event.key() == Qt.Key.Key_Delete:
            self.remove_wanted.emit()
        elif event.key() in (Qt.Key.Key_Home, Qt.Key.Key_End) and not event.modifiers():
            # By itself a table goes to the row's first cell, which says nothing where rows are selected whole.
            row = 0 if event.key() == Qt.Key.Key_Home else self.model().rowCount() - 1
            self.setCurrentIndex(self.model().index(row, 0))
        else:
            super().keyPressEvent(event)
            return
        event.accept()

    @Slot(QModelIndex)
    def _on_double_clicked(self, index: QModelIndex) -> None:
        self.opened.emit()

    @Slot()
    def _on_current_changed(self) -> None:
        self.selected.emit()

    @Slot()
    def _on_selection_changed(self) -> None:
        self.selected.emit()

    def _id_at(self, row: int) -> RowId | None:
        if row < 0:
            return None
        id: RowId | None = self.model().index(row, 0).data(ID_ROLE)
        return id
