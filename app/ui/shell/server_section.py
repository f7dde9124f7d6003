"""Preferences: the HTTP server of this window, live: where it listens, or why it does not."""

from __future__ import annotations

from PySide6.QtCore import QSignalBlocker, Qt, QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import QCheckBox, QComboBox, QGridLayout, QLabel, QSpinBox, QWidget

from app.controller_settings import DEFAULT_PORT
from app.ui import make
from app.ui.http_server import ServerState
from app.ui.icons import mark
from app.ui.nodes.copy_field import CopyField
from app.ui.shell.preference_rows import Section
from app.ui.workbench import Workbench

ADDRESSES = ("127.0.0.1", "0.0.0.0")


class ServerSection(Section):
    """Each change takes effect at once: a server that runs begins anew at the other place."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__("HTTP server", parent)
        self._workbench, self._server = workbench, workbench.server
        self.add_words(
            "Programs and browsers use Shardboard over HTTP: OpenAI's API, a status page, exports. The server runs "
            "while this window is open; in a terminal, ./run serve runs it without a window."
        )
        self.enabled = QCheckBox("Serve HTTP", self)
        self.enabled.setObjectName("server-enabled")
        self.enabled.clicked.connect(self._on_enabled)
        self.column.addWidget(self.enabled)
        self._mark = QLabel(self)
        self.told = make.label("", "", self, wraps=True, is_plain=True, selectable=True, name="State of the server")
        self.again = make.button("Try again", self._server.try_again, self)
        row = make.row(
            (self._mark, 0, Qt.AlignmentFlag.AlignTop), (self.told, 1), (self.again, 0, Qt.AlignmentFlag.AlignTop)
        )
        self.column.addLayout(row)
        self.url = CopyField("the server's address", self)
        self.browse = make.button("Open in browser", self._on_browse, self, picture="external-link")
        self._place = QWidget(self)
        make.row((self.url, 1), (self.browse, 0, Qt.AlignmentFlag.AlignVCenter), within=self._place)
        self.column.addWidget(self._place)
        self.column.addLayout(self._fields())
        self.demand = QCheckBox("Demand an API key on this machine, too", self)
        self.demand.setObjectName("server-demand-key")
        self.demand.clicked.connect(self._on_demand)
        self.column.addWidget(self.demand)
        self.meaning = self.add_words("")
        self._server.changed.connect(self.show_server)
        workbench.foreign.changed.connect(self.show_server)
        workbench.theme.changed.connect(self.show_server)
        self.show_server()

    def _fields(self) -> QGridLayout:
        self.host = QComboBox(self)
        self.host.setEditable(True)
        self.host.setInsertPolicy(QComboBox.InsertPolicy.NoInsert)
        self.host.addItems(list(ADDRESSES))
        self.host.setAccessibleName("Address")
        self.host.setObjectName("server-host")
        edit = self.host.lineEdit()
        if edit is not None:
            edit.editingFinished.connect(self._on_host)
        self.host.activated.connect(self._on_host)
        self.port = make.number_field(QSpinBox(self))
        self.port.setRange(0, 65535)
        self.port.setSpecialValueText("any free one")
        self.port.setKeyboardTracking(False)
        self.port.setAccessibleName("Port")
        self.port.setObjectName("server-port")
        self.port.setToolTip(f"{DEFAULT_PORT} unless you choose another; 0 takes any that is free")
        self.port.valueChanged.connect(self._on_port)
        grid = make.grid(wide=2)
        for number, (text, field) in enumerate((("Address", self.host), ("Port", self.port))):
            grid.addWidget(make.label_of(field, text), number, 0)
            grid.addWidget(field, number, 1)
        return grid

    # --- showing ---

    @Slot()
    def show_server(self) -> None:
        """As it is now. A field that is being typed in stays as it is."""
        from app.api.hosts import is_loopback

        server, settings = self._server, self._server.settings
        self.enabled.setChecked(settings.enabled)
        if not self.host.hasFocus():
            self.host.setCurrentText(settings.host)
        if not self.port.hasFocus():
            with QSignalBlocker(self.port):
                self.port.setValue(settings.port)
        here = is_loopback(settings.host)
        self.demand.setChecked(settings.demand_key or not here)
        self.demand.setEnabled(here)
        self.meaning.setText(
            "Only programs on this machine can reach it." if here else
            "Other machines can reach it, and every request needs an API key. It is not encrypted: use it in a network "
            "that you trust, or put a proxy with TLS in front of it."
        )  # fmt: skip
        is_on = server.state is ServerState.ON
        self._place.setVisible(is_on)
        if self.url.text != server.url:
            self.url.set_text(server.url)
        self.again.setVisible(server.state is ServerState.FAILED)
        self._tell()

    def _tell(self) -> None:
        server, colors = self._server, self._workbench.theme.colors
        count = self._workbench.foreign.http
        match server.state:
            case ServerState.ON:
                busy = f", {count:,} request{'' if count == 1 else 's'} under way" if count else ""
                name, color, text = "circle-check", colors.ok, f"Listening{busy}"
                if server.error is not None:
                    name, color, text = "triangle-alert", colors.warning, str(server.error)
            case ServerState.CHANGING:
                name, color, text = "loader", colors.muted, "One moment…"
            case ServerState.FAILED:
                name, color, text = "circle-alert", colors.error, str(server.error)
            case _:
                name, color, text = "power-off", colors.muted, "Off"
        self._mark.setPixmap(mark(name, color))
        self.told.setText(text)

    # --- changing ---

    @Slot(bool)
    def _on_enabled(self, on: bool) -> None:
        self._server.change(enabled=on)

    @Slot(bool)
    def _on_demand(self, on: bool) -> None:
        self._server.change(demand_key=on)

    @Slot()
    def _on_host(self) -> None:
        host = self.host.currentText().strip()
        if host and host != self._server.settings.host:
            self._server.change(host=host)

    @Slot(int)
    def _on_port(self, port: int) -> None:
        if port != self._server.settings.port:
            self._server.change(port=port)

    @Slot()
    def _on_browse(self) -> None:
        QDesktopServices.openUrl(QUrl(self._server.url))
