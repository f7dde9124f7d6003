"""The pane in which a conversation's parameters are set. What cannot be used is said at its field.

An empty field is as the model has it, and shows that.
"""

from __future__ import annotations

import copy

import msgspec
from PySide6.QtCore import QSignalBlocker, Qt, Signal, Slot
from PySide6.QtWidgets import (
    QButtonGroup,
    QFrame,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPlainTextEdit,
    QToolButton,
    QWidget,
)

from app.errors import RequestError
from app.inference.model_defaults import ModelDefaults
from app.ui import make
from app.ui.chat.conversation import Options
from app.ui.chat.parameter_fields import FIELDS, stops_of, stops_text, variables_of, variables_text
from app.ui.theme import SPACING

WIDTH = 272
FIELD_WIDTH = 104


class ParametersPane(QFrame):
    """Edits Options in place and says so."""

    changed = Signal()
    """The options are others now, and can be used."""
    close_wanted = Signal()

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.setAccessibleName("Parameters")
        self.setMinimumWidth(WIDTH)
        self._options = Options()
        self._edits: dict[str, QLineEdit] = {}
        self._errors: dict[str, QLabel] = {}
        outer = make.column(self._header(), within=self, spacing=0)
        inside = QWidget()
        self._rows = make.column(within=inside, margins=(2 * SPACING, SPACING, 2 * SPACING, 2 * SPACING))
        self._build()
        scroll = make.scrolled(inside, sideways=False)
        scroll.setStyleSheet("QScrollArea, QScrollArea > QWidget > QWidget { background: transparent; }")
        outer.addWidget(scroll)
        self.show_options(Options())
        self.show_defaults(ModelDefaults())

    def _header(self) -> QHBoxLayout:
        title = make.label("Parameters", "heading")
        close = make.tool("x", "Hide the parameters", self.close_wanted)
        return make.row(title, make.STRETCH, close, margins=(2 * SPACING, SPACING, SPACING, SPACING), spacing=None)

    def _build(self) -> None:
        modes = make.row(spacing=SPACING // 2)
        self._modes = QButtonGroup(self)
        self.chat_mode = self._mode("Chat", "Answer with the model's chat template.", 0, modes)
        self.raw_mode = self._mode("Completion", "Continue a text just as it is.", 1, modes)
        self._rows.addLayout(modes)
        self._system_label = self._label("System prompt")
        self.system = self._text_box("System prompt", "How the model should behave", 4)
        self._rows.addWidget(self._system_label)
        self._rows.addWidget(self.system)
        grid = make.grid(across=SPACING, down=SPACING // 2, wide=0)
        for number, field in enumerate(FIELDS):
            label = self._label(field.label)
            label.setToolTip(field.tip)
            edit = make.dressed(QLineEdit(), key=f"chat-{field.name}", name=field.label)
            edit.setAccessibleDescription(field.tip)
            edit.setToolTip(field.tip)
            edit.setFixedWidth(FIELD_WIDTH)
            edit.setAlignment(Qt.AlignmentFlag.AlignRight)
            edit.textEdited.connect(self._on_edited)
            label.setBuddy(edit)
            grid.addWidget(label, 2 * number, 0)
            grid.addWidget(edit, 2 * number, 1)
            self._edits[field.name] = edit
            self._errors[field.name] = self._error()
            grid.addWidget(self._errors[field.name], 2 * number + 1, 0, 1, 2)
        self._rows.addLayout(grid)
        self._rows.addWidget(self._label("Stop strings"))
        self.stops = self._text_box("Stop strings", "One on each line", 2)
        self._rows.addWidget(self.stops)
        self._errors["stop"] = self._error()
        self._rows.addWidget(self._errors["stop"])
        self._variables_label = self._label("Template variables")
        self._variables_label.setToolTip("What the model's chat template gets besides the conversation, as JSON.")
        self.variables = self._text_box("Template variables", '{"enable_thinking": false}', 2)
        self._errors["chat_template_kwargs"] = self._error()
        for widget in (self._variables_label, self.variables, self._errors["chat_template_kwargs"]):
            self._rows.addWidget(widget)
        self.notes = self._label("")
        self.notes.setWordWrap(True)
        self._rows.addWidget(self.notes)
        reset = make.button("Reset to defaults", self._on_reset, picture="rotate-ccw")
        self._rows.addWidget(reset)
        self._rows.addStretch()

    def _mode(self, text: str, tip: str, id: int, row: QHBoxLayout) -> QToolButton:
        button = QToolButton()
        button.setText(text)
        button.setToolTip(tip)
        button.setCheckable(True)
        button.setSizePolicy(self.sizePolicy().horizontalPolicy().Expanding, button.sizePolicy().verticalPolicy())
        button.setAccessibleName(f"{text} mode")
        self._modes.addButton(button, id)
        row.addWidget(button)
        button.toggled.connect(self._on_edited)
        return button

    def _label(self, text: str) -> QLabel:
        return make.label(text, "muted")

    def _error(self) -> QLabel:
        return make.label("", "error", wraps=True, hidden=True)

    def _text_box(self, name: str, placeholder: str, lines: int) -> QPlainTextEdit:
        box = QPlainTextEdit()
        box.setAccessibleName(name)
        box.setPlaceholderText(placeholder)
        box.setTabChangesFocus(True)
        box.setFixedHeight(box.fontMetrics().lineSpacing() * lines + 4 * SPACING)
        box.textChanged.connect(self._on_edited)
        return box

    # --- between options and fields ---

    def show_options(self, options: Options) -> None:
        """Edit these from now on."""
        self._options = options
        boxes = (self.system, self.stops, self.variables, self.chat_mode, self.raw_mode)
        blockers = [QSignalBlocker(widget) for widget in boxes]
        for field in FIELDS:
            self._edits[field.name].setText(field.text(options))
        self.system.setPlainText(options.system)
        self.stops.setPlainText(stops_text(options.stop))
        self.variables.setPlainText(variables_text(options.chat_template_kwargs))
        (self.raw_mode if options.raw else self.chat_mode).setChecked(True)
        del blockers
        self._show_mode(options.raw)
        for label in self._errors.values():
            label.hide()

    def show_defaults(self, defaults: ModelDefaults) -> None:
        """What the fields that are left empty mean with the model that is asked, and what it asks for in vain."""
        for field in FIELDS:
            self._edits[field.name].setPlaceholderText(field.placeholder(defaults.values))
        self.stops.setPlaceholderText(stops_text(tuple(defaults.values.get("stop", ()))) or "One on each line")
        self.notes.setText("\n".join(defaults.notes))
        self.notes.setVisible(bool(defaults.notes))

    def _show_mode(self, raw: bool) -> None:
        for widget in (self._system_label, self.system, self._variables_label, self.variables):
            widget.setVisible(not raw)

    @Slot()
    def _on_edited(self) -> None:
        self._show_mode(self.raw_mode.isChecked())
        before = msgspec.structs.asdict(self._options)
        self.check()
        if msgspec.structs.asdict(self._options) != before:  # what can be used counts, whatever else is wrong
            self.changed.emit()

    def check(self) -> bool:
        """Read all fields; say at each what cannot be used. Only what can be used gets into the options."""
        problems: dict[str, RequestError] = {}
        for field in FIELDS:
            try:
                self._take(field.name, field.parse(self._edits[field.name].text()))
            except RequestError as error:
                problems[field.name] = error
        try:
            self._take("stop", stops_of(self.stops.toPlainText()))
        except RequestError as error:
            problems["stop"] = error
        try:
            self._take("chat_template_kwargs", variables_of(self.variables.toPlainText()))
        except RequestError as error:
            problems["chat_template_kwargs"] = error
        self._options.system = self.system.toPlainText()
        self._options.raw = self.raw_mode.isChecked()
        for name, label in self._errors.items():
            label.setVisible(name in problems)
            if name in problems:
                label.setText(problems[name].message)
        return not problems

    def _take(self, name: str, value: object) -> None:
        """Set one option, when a request could be made with it. Raises RequestError."""
        trial = copy.copy(self._options)
        setattr(trial, name, value)
        trial.parameters()
        setattr(self._options, name, value)

    def focus_problem(self) -> None:
        """Go to the first field that cannot be used."""
        for name, label in self._errors.items():
            if not label.isHidden():
                boxes = {"stop": self.stops, "chat_template_kwargs": self.variables}
                boxes.get(name, self._edits.get(name, self.stops)).setFocus()
                return

    def error_of(self, name: str) -> str:
        """What is said at a field; empty when it can be used."""
        label = self._errors[name]
        return "" if label.isHidden() else label.text()

    @Slot()
    def _on_reset(self) -> None:
        fresh = Options(raw=self._options.raw)
        for name, value in msgspec.structs.asdict(fresh).items():
            setattr(self._options, name, value)
        self.show_options(self._options)
        self.changed.emit()
