"""Preferences: the keys of the HTTP API. A new one is shown once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QWidget

from app.errors import ShardboardError
from app.figures import ago, clock
from app.ui import make
from app.ui.http_server import ServerState
from app.ui.nodes.copy_field import CopyField
from app.ui.shell.preference_rows import Section
from app.ui.tables import Column, RowsModel, Table
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.registry import Registry

COLUMNS = (
    Column("Name", lambda key: key.name),
    Column("Ends in", lambda key: f"…{key.hint}", "Ends in___"),
    Column("Made", lambda key: clock(key.created_at), "2026-12-30 23:59:59__"),
    Column("Last used", lambda key: ago(key.last_used_at), "59 min ago____"),
)
ROWS = 4
"""The table is so high; more of them scroll."""


class KeysSection(Section):
    """Lists, adds and removes. Removing asks by turning the button into another one."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__("API keys", parent)
        self._workbench = workbench
        self.add_words(
            "A program sends its key with each request: Authorization: Bearer sb-…. Only a hash of it is kept."
        )
        self.model = RowsModel(COLUMNS, self)
        self.table = self._make_table()
        self.column.addWidget(self.table)
        self.none = self.add_words("There are no keys yet.")
        hint = "Who or what will use it: laptop, grafana, …"
        self.name = make.field(hint, "Name of the new key", self, key="key-name")
        self.name.setMaxLength(64)
        self.add = make.button("Add a key", None, self, picture="plus", by_return=False)
        self.remove = make.button("Remove", None, self, picture="trash-2", by_return=False)
        self.confirm = make.button("", None, self, role="danger", by_return=False)
        row = make.row((self.name, 1), self.add, self.remove, self.confirm)
        self.column.addLayout(row)
        self.error = make.label("", "error", self, wraps=True, hidden=True)
        self.column.addWidget(self.error)
        self.fresh = CopyField("the new API key", self)
        self.once = self.add_words("Copy it now: it is not shown again.")
        self.column.removeWidget(self.once)
        self.column.addWidget(self.fresh)
        self.column.addWidget(self.once)
        self.fresh.hide()
        self.once.hide()
        self.name.textChanged.connect(self._calm_down)
        self.name.returnPressed.connect(self._on_add)
        self.add.clicked.connect(self._on_add)
        self.remove.clicked.connect(self._on_remove)
        self.confirm.clicked.connect(self._on_confirmed)
        self.table.selectionModel().selectionChanged.connect(self._calm_down)
        self.model.modelReset.connect(self._calm_down)
        self._calm_down()
        self._read()

    def _make_table(self) -> Table:
        table = Table(self.model, self._workbench.theme, "API keys", key="keys-table", parent=self)
        table.setSelectionMode(Table.SelectionMode.SingleSelection)
        table.setFixedHeight((ROWS + 1) * table.verticalHeader().defaultSectionSize() + SPACING)
        table.size_columns(COLUMNS, 0)
        return table

    # --- what there is ---

    def _read(self) -> None:
        call = self._workbench.bridge.read(lambda registry: tuple(registry.api_keys.list()), "reading the API keys")
        call.done.connect(self.model.show_rows)
        call.failed.connect(self._on_failed)

    @property
    def chosen(self) -> str | None:
        rows = self.table.selectionModel().selectedRows()
        return str(self.model.rows[rows[0].row()].name) if rows else None

    @Slot()
    def _calm_down(self) -> None:
        there = self.model.rowCount() > 0
        self.table.setVisible(there)
        self.none.setVisible(not there)
        self.add.setEnabled(bool(self.name.text().strip()))
        self.remove.setVisible(there)
        self.remove.setEnabled(self.chosen is not None)
        self.confirm.hide()

    # --- adding and removing ---

    @Slot()
    def _on_add(self) -> None:
        name = self.name.text().strip()
        if not name:
            return

        def make(registry: Registry) -> str:
            from app.api.keys import make_key

            return make_key(registry, name)

        self.error.hide()
        call = self._workbench.bridge.read(make, "making an API key")
        call.done.connect(self._on_made)
        call.failed.connect(self._on_failed)

    @Slot(object)
    def _on_made(self, key: str) -> None:
        self.fresh.set_text(key)
        self.fresh.show()
        self.once.show()
        self.name.clear()
        self._read()
        if self._workbench.server.state is ServerState.FAILED:  # perhaps for want of a key
            self._workbench.server.try_again()

    @Slot()
    def _on_remove(self) -> None:
        self.confirm.setText(f"Remove {self.chosen} for good")
        self.confirm.show()
        self.remove.hide()
        self.confirm.setFocus()

    @Slot()
    def _on_confirmed(self) -> None:
        name = self.chosen
        if name is None:
            return
        self.error.hide()
        self.fresh.set_text("")
        self.fresh.hide()
        self.once.hide()
        call = self._workbench.bridge.read(lambda registry: registry.api_keys.remove(name), "removing an API key")
        call.failed.connect(self._on_failed)
        call.ended.connect(self._read)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self.error.setText(str(error))
        self.error.show()
