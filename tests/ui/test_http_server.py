"""The HTTP server in the window: switched on and off, its keys, what it says when it cannot listen, and closing."""

from __future__ import annotations

import socket
import urllib.error
import urllib.request

import pytest
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QPushButton
from pytestqt.qtbot import QtBot

from app.paths import Home
from app.ui.bridge import Bridge
from app.ui.http_server import ServerState
from app.ui.settings import Settings
from app.ui.shell.keys_section import KeysSection
from app.ui.shell.server_section import ServerSection
from app.ui.theme import ThemeKeeper
from app.ui.window.status_bar import StatusBar
from app.ui.workbench import Workbench

SECONDS = 20_000


def wait_for(workbench: Workbench, qtbot: QtBot, state: ServerState) -> None:
    qtbot.waitUntil(lambda: workbench.server.state is state, timeout=SECONDS)


def get(url: str, key: str = "") -> int:
    """The status with which a page is answered; raises URLError where nobody listens."""
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.fixture
def section(workbench: Workbench, qtbot: QtBot) -> ServerSection:
    """With a port that is free for certain."""
    made = ServerSection(workbench)
    qtbot.addWidget(made)
    made.port.setValue(0)
    made.show()
    wait_for(workbench, qtbot, ServerState.OFF)
    return made


def test_it_is_switched_on_shows_its_address_and_is_switched_off(
    section: ServerSection, workbench: Workbench, qtbot: QtBot
) -> None:
    status = StatusBar(workbench)
    qtbot.addWidget(status)
    assert section.told.text() == "Off" and not section.url.isVisible() and status.server.isHidden()
    section.enabled.click()
    wait_for(workbench, qtbot, ServerState.ON)
    url = workbench.server.url
    assert section.url.isVisible() and section.url.text == url and section.told.text() == "Listening"
    assert status.server.text() == f"HTTP at {url.removeprefix('http://')}" and not status.server.isHidden()
    assert get(f"{url}/health") == 200
    with qtbot.waitSignal(workbench.navigate) as went:
        status.server.click()
    assert went.args == ["preferences", "Server"]
    section.enabled.click()
    wait_for(workbench, qtbot, ServerState.OFF)
    assert not section.url.isVisible()
    with pytest.raises(urllib.error.URLError):
        get(f"{url}/health")


def test_a_port_that_is_taken_is_told_and_another_one_mends_it(
    section: ServerSection, workbench: Workbench, qtbot: QtBot
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        section.port.setValue(port)
        section.enabled.click()
        wait_for(workbench, qtbot, ServerState.FAILED)
        assert f"port {port}: another program listens there already" in section.told.text()
        assert section.again.isVisible() and section.enabled.isChecked()
    section.again.click()
    wait_for(workbench, qtbot, ServerState.ON)
    assert get(f"http://127.0.0.1:{port}/health") == 200


def test_other_machines_need_a_key_and_the_first_one_lets_it_begin(
    section: ServerSection, workbench: Workbench, qtbot: QtBot
) -> None:
    keys = KeysSection(workbench)
    qtbot.addWidget(keys)
    keys.show()
    section.host.setCurrentText("0.0.0.0")
    section.host.activated.emit(1)
    qtbot.waitUntil(section.demand.isChecked)
    assert (
        workbench.server.state is ServerState.OFF
        and not section.demand.isEnabled()
        and "Other machines" in section.meaning.text()
    )
    section.enabled.click()
    wait_for(workbench, qtbot, ServerState.FAILED)
    assert "demand an API key, but there is none" in section.told.text()
    keys.name.setText("laptop")
    keys.add.click()
    wait_for(workbench, qtbot, ServerState.ON)
    key = keys.fresh.text
    assert key.startswith("sb-") and keys.fresh.isVisible() and keys.once.isVisible()
    keys.fresh.findChild(QPushButton).click()
    assert QGuiApplication.clipboard().text() == key
    models = f"{workbench.server.url}/v1/models"
    assert (get(models), get(models, key)) == (401, 200)
    qtbot.waitUntil(lambda: keys.model.rowCount() == 1)
    assert [keys.model.index(0, column).data() for column in (0, 1)] == ["laptop", f"…{key[-4:]}"]
    keys.table.selectRow(0)
    keys.remove.click()
    assert keys.confirm.text() == "Remove laptop for good"
    keys.confirm.click()
    qtbot.waitUntil(lambda: keys.model.rowCount() == 0)
    assert not keys.fresh.isVisible() and keys.none.isVisible()
    assert get(models, key) == 401


def test_a_name_that_is_taken_is_told(workbench: Workbench, qtbot: QtBot) -> None:
    keys = KeysSection(workbench)
    qtbot.addWidget(keys)
    keys.show()
    for count in (1, 1):
        keys.name.setText("laptop")
        keys.add.click()
        qtbot.waitUntil(lambda count=count: keys.model.rowCount() == count)
    qtbot.waitUntil(lambda: "There is an API key 'laptop' already" in keys.error.text())


def test_it_is_on_again_at_the_next_start_and_gone_when_the_window_is(
    qtbot: QtBot, home: Home, theme: ThemeKeeper
) -> None:
    urls = []
    for start in range(2):
        bridge = Bridge()
        workbench = Workbench(bridge, Settings(home.root / "window.ini"), theme)
        with qtbot.waitSignal(bridge.opened, timeout=SECONDS):
            bridge.start(home)
        if not start:
            workbench.server.change(port=0, enabled=True)
        wait_for(workbench, qtbot, ServerState.ON)
        urls.append(workbench.server.url)
        assert get(f"{urls[-1]}/health") == 200
        with qtbot.waitSignal(bridge.closed, timeout=SECONDS):
            bridge.close()
        with pytest.raises(urllib.error.URLError):
            get(f"{urls[-1]}/health")
        workbench.deleteLater()
        bridge.deleteLater()
