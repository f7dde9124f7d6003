"""Preferences on four pages: general, server, records, storage. Every change takes effect at once."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QDialog, QHBoxLayout, QTabWidget, QWidget

from app.ui import make
from app.ui.shell.keys_section import KeysSection
from app.ui.shell.preference_rows import Choice, Section, Switch
from app.ui.shell.records_section import RecordsSection
from app.ui.shell.server_section import ServerSection
from app.ui.shell.storage_section import StorageSection
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

DTYPES = (
    ("", "As the model's weights"),
    ("bfloat16", "bfloat16 (half precision)"),
    ("float16", "float16 (half precision)"),
    ("float32", "float32 (full precision)"),
)
CONTEXTS = ((0, "As usual: 8,192 tokens"), *((size, f"{size:,} tokens") for size in (2048, 4096, 16384, 32768, 131072)))


class PreferencesDialog(QDialog):
    """Pages that scroll; there is no OK and no Cancel."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self.setWindowTitle("Preferences")
        self.setObjectName("preferences")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.pages = QTabWidget(self)
        self.pages.setDocumentMode(True)
        self._add("General", self._appearance(), self._board(), self._agents(), self._chat())
        self._add("Server", ServerSection(workbench), KeysSection(workbench))
        self._add("Records", RecordsSection(workbench))
        self._add("Storage", StorageSection(workbench))
        make.column((self.pages, 1), self._foot(), within=self, margins=(0, SPACING, 0, 2 * SPACING), spacing=None)
        em = self.fontMetrics()
        self.resize(em.averageCharWidth() * 104, em.lineSpacing() * 44)
        workbench.settings.changed.connect(self._on_changed)

    def _add(self, title: str, *sections: Section) -> None:
        inside = QWidget()
        make.column(
            *sections, make.STRETCH, within=inside, margins=(3 * SPACING, 2 * SPACING, 3 * SPACING, SPACING),
            spacing=2 * SPACING,
        )  # fmt: skip
        area = make.scrolled(inside)
        area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.pages.addTab(area, title)

    def show_page(self, title: str) -> None:
        """Bring a page to the front; the one that is there stays for a title that none has."""
        for number in range(self.pages.count()):
            if self.pages.tabText(number) == title:
                self.pages.setCurrentIndex(number)

    def _appearance(self) -> Section:
        section = Section("Appearance")
        options = (("system", "As the system"), ("light", "Light"), ("dark", "Dark"))
        section.column.addWidget(Choice(self._workbench.settings, "appearance/theme", "Theme", options))
        self._switch(section, "appearance/animations", "Animations", "Things move into place instead of jumping there.")
        return section

    def _board(self) -> Section:
        section = Section("Board")
        section.column.addWidget(Choice(
            self._workbench.settings, "board/dtype", "Compute dtype of new plans", DTYPES,
            "Half precision takes half the memory of float32 and is faster where the processor can compute in it.",
        ))  # fmt: skip
        section.column.addWidget(Choice(
            self._workbench.settings, "board/context", "Context of new plans", CONTEXTS,
            "The longest prompt and answer together. Each token of it takes memory on every node, used or not; "
            "what is longer than the model was made for is cut to that.",
        ))  # fmt: skip
        section.add_words("A plan that is on the board already keeps what it has.")
        return section

    def _agents(self) -> Section:
        section = Section("Agents on this machine")
        self._switch(
            section, "agents/start_with_window", "Start them with the window",
            "Agents that an earlier window has stopped come back by themselves, with the layers they held.",
        )  # fmt: skip
        self._switch(
            section, "agents/stop_with_window", "Stop them with the window",
            "Closing the window ends the agents it started and gives their memory back; switched off, they go on.",
        )  # fmt: skip
        return section

    def _chat(self) -> Section:
        section = Section("Chat")
        self._switch(
            section, "chat/keep_history", "Keep conversations",
            "They are there again at the next start. They lie on this machine only.",
        )  # fmt: skip
        return section

    def _switch(self, section: Section, key: str, text: str, meaning: str) -> None:
        section.column.addWidget(Switch(self._workbench.settings, key, text, meaning))

    def _foot(self) -> QHBoxLayout:
        note = make.label("Changes take effect at once.", "muted", self)
        close = make.button("Close", self.accept, self, by_return=True)
        return make.row((note, 1), close, margins=(3 * SPACING, 0, 3 * SPACING, 0), spacing=None)

    @Slot(str)
    def _on_changed(self, key: str) -> None:
        if key == "appearance/theme":
            self._workbench.theme.apply(str(self._workbench.settings.get(key)))
