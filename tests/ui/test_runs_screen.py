"""The screen Runs on a real registry: find, open, copy, ask again, remove, export."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QMessageBox
from pytestqt.qtbot import QtBot

from app.registry import JobStatus, Registry, RequestStatus
from app.ui.notices import Notice
from app.ui.paging.export import Export, begin, json_line
from app.ui.runs.listings import RequestListing
from app.ui.runs.runs_screen import RunsScreen
from app.ui.workbench import Workbench

from .test_paging_model import write


def fill(registry: Registry) -> None:
    """Requests 1 to 4: answered, failed, cancelled, waiting; one job, one deployment."""
    for prompt in ("What is the capital of France?", "Write a haiku", "Count to 100 %", "Hello"):
        registry.requests.add(model_name="smollm", prompt=prompt, parameters={"seed": 7}, prompt_token_ids=(1, 2, 3))
    registry.requests.update(
        1, status=RequestStatus.COMPLETED, result="Paris.", token_ids=(7, 8), completion_tokens=2, finish_reason="stop",
        timings={"prepare": 0.1, "first_token": 0.4, "decode": 1.0, "total": 1.5, "tokens_per_second": 1.0},
    )  # fmt: skip
    registry.requests.update(2, status=RequestStatus.FAILED, error="Node beta is lost.", result="Grey waves")
    registry.requests.update(3, status=RequestStatus.CANCELLED)
    job = registry.jobs.add(kind="cut", title="Cut smollm into 2 shards", model_name="smollm")
    registry.jobs.update(job.id, status=JobStatus.DONE, details={"ranges": [[0, 15], [15, 30]], "bytes": 538_060_800})
    registry.deployments.add(
        id="deadbeef", model_name="smollm", plan_hash="ab", dtype="bfloat16", context=2048, kv_tokens=4096
    )


@pytest.fixture
def screen(workbench: Workbench, qtbot: QtBot) -> RunsScreen:
    write(workbench, qtbot, fill)
    screen = RunsScreen(workbench)
    qtbot.addWidget(screen)
    screen.resize(1180, 740)
    with qtbot.waitExposed(screen):
        screen.show()
    qtbot.waitUntil(lambda: screen.detail.story is not None)
    return screen


def rows(screen: RunsScreen, column: int) -> list[str]:
    model = screen.panel.model
    return [str(model.index(row, column).data()) for row in range(model.rowCount())]


def open_request(screen: RunsScreen, qtbot: QtBot, id: int) -> None:
    screen.open_with(id)
    qtbot.waitUntil(lambda: screen.detail.story is not None and screen.detail.story.id == id)


def clipboard() -> str:
    return QGuiApplication.clipboard().text()


def shown(screen: RunsScreen) -> str:
    return "\n".join(label.text() for label in screen.detail.findChildren(QLabel) if label.isVisibleTo(screen))


def test_the_newest_request_is_first_and_open(screen: RunsScreen) -> None:
    assert rows(screen, 0) == ["Waiting", "Cancelled", "Failed", "Done"]
    assert rows(screen, 2)[3] == "What is the capital of France?"
    assert (rows(screen, 7)[3], rows(screen, 8)[3]) == ("1.0", "400 ms")
    assert screen.detail.story is not None and screen.detail.story.id == 4
    assert screen.panel.view.objectName() == "runs-table"


def test_filters_narrow_the_table_down_and_an_empty_one_says_why(screen: RunsScreen, qtbot: QtBot) -> None:
    screen.filters.search.setText("0 %")
    qtbot.waitUntil(lambda: rows(screen, 2) == ["Count to 100 %"])
    screen.filters.states.setCurrentText("Failed")
    qtbot.waitUntil(lambda: screen.panel.is_empty)
    assert "No requests match" in screen.panel.empty.text
    screen.panel.empty.pressed.emit()
    qtbot.waitUntil(lambda: screen.panel.model.total == 4)
    assert not screen.filters.value().is_narrow


def test_a_failed_request_says_what_went_wrong_and_keeps_its_text(screen: RunsScreen, qtbot: QtBot) -> None:
    open_request(screen, qtbot, 2)
    qtbot.waitUntil(lambda: "Node beta is lost." in shown(screen) and "ask again" in shown(screen))
    screen.detail.copy_answer.trigger()
    assert clipboard() == "Grey waves"


def test_what_is_known_of_a_request_can_be_copied(screen: RunsScreen, qtbot: QtBot) -> None:
    open_request(screen, qtbot, 1)
    screen.detail.copy_json.trigger()
    record = json.loads(clipboard())
    assert (record["format"], record["kind"], record["status"]) == ("shardboard.run", "request", "completed")
    assert (record["request"]["result"], record["request"]["token_ids"]) == ("Paris.", [7, 8])
    assert datetime.fromisoformat(record["created_at"]).tzinfo is not None
    screen.detail.copy_details.trigger()
    assert "What is the capital of France?" in clipboard() and "seed: 7" in clipboard()
    screen.panel.view.setFocus()
    qtbot.keyClick(screen.panel.view, Qt.Key.Key_C, Qt.KeyboardModifier.ControlModifier)
    assert clipboard().startswith("Done\tsmollm\tWhat is")


def test_asking_again_goes_to_the_chat_with_the_model(screen: RunsScreen, workbench: Workbench, qtbot: QtBot) -> None:
    open_request(screen, qtbot, 1)
    with qtbot.waitSignal(workbench.navigate) as went:
        screen.detail.buttons[1].click()
    assert went.args == ["chat", "smollm"]


def test_an_open_request_is_shown_anew_when_it_ends(screen: RunsScreen, workbench: Workbench, qtbot: QtBot) -> None:
    assert not screen.detail.remove.isEnabled()
    write(
        workbench, qtbot, lambda registry: registry.requests.update(4, status=RequestStatus.COMPLETED, result="Hi.")
    )  # fmt: skip
    qtbot.waitUntil(lambda: screen.detail.story is not None and screen.detail.story.answer == "Hi.")
    assert rows(screen, 0)[0] == "Done" and screen.detail.remove.isEnabled()


def test_removing_asks_first_and_goes_on_with_the_next(screen: RunsScreen, workbench: Workbench, qtbot: QtBot) -> None:
    open_request(screen, qtbot, 3)
    for answer in (QMessageBox.ButtonRole.RejectRole, QMessageBox.ButtonRole.DestructiveRole):
        qtbot.keyClick(screen.panel.view, Qt.Key.Key_Delete)
        (question,) = [box for box in screen.findChildren(QMessageBox) if box.isVisible()]
        assert "request 3" in question.text()
        button = next(each for each in question.buttons() if question.buttonRole(each) == answer)
        with qtbot.waitSignal(question.finished):
            button.click()
    qtbot.waitUntil(lambda: screen.panel.model.total == 3)
    assert "Count to 100 %" not in rows(screen, 2)


def test_what_is_under_way_is_not_removed(screen: RunsScreen, workbench: Workbench, qtbot: QtBot) -> None:
    screen.remove_runs("request", (4, 1))
    qtbot.waitUntil(lambda: screen.panel.model.total == 3)
    assert rows(screen, 0) == ["Waiting", "Cancelled", "Failed"]


def test_jobs_and_deployments_have_tables_of_their_own(screen: RunsScreen, qtbot: QtBot) -> None:
    screen.tabs.setCurrentIndex(1)
    qtbot.waitUntil(lambda: screen.detail.story is not None and screen.detail.story.kind == "job")
    assert rows(screen, 2) == ["Cut smollm into 2 shards"]
    qtbot.waitUntil(lambda: "layers 0–14, layers 15–29" in shown(screen) and "538.1 MB" in shown(screen))
    screen.open_with("deadbeef")
    qtbot.waitUntil(lambda: screen.detail.story is not None and screen.detail.story.kind == "deployment")
    assert rows(screen, 0) == ["Loading"]
    qtbot.waitUntil(lambda: "4,096 tokens" in shown(screen))


def test_nothing_yet_is_said_in_a_sentence(workbench: Workbench, qtbot: QtBot) -> None:
    screen = RunsScreen(workbench)
    qtbot.addWidget(screen)
    screen.show()
    qtbot.waitUntil(lambda: screen.panel.is_empty)
    assert "Nothing has been asked yet." in screen.panel.empty.text and not screen.detail.isVisible()
    with qtbot.waitSignal(workbench.navigate) as went:
        screen.panel.empty.pressed.emit()
    assert went.args == ["chat", None]


def test_the_screen_is_found_as_it_was_left(screen: RunsScreen, workbench: Workbench, qtbot: QtBot) -> None:
    screen.tabs.setCurrentIndex(1)
    kept = json.loads(json.dumps(screen.save()))
    other = RunsScreen(workbench)
    qtbot.addWidget(other)
    other.restore(kept)
    assert other.tabs.currentIndex() == 1
    other.restore({"kind": 5, "splitter": None})
    assert all(action.text() and not action.icon().isNull() for action in other.commands())


def test_an_export_writes_every_row_of_the_filter(
    screen: RunsScreen, workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    said: list[Notice] = []
    workbench.notices.toasted.connect(said.append)
    file = tmp_path / "requests.jsonl"
    listing = RequestListing(status=frozenset({RequestStatus.COMPLETED, RequestStatus.FAILED}))
    with qtbot.waitSignal(screen.exporting.ended):
        screen.exporting.start(Export(listing, 4, ((0, 1),), file, json_line))
    written = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(each["id"], each["result"]) for each in written] == [(2, "Grey waves"), (1, "Paris.")]
    assert set(written[0]) >= {"prompt", "parameters", "timings", "token_ids", "prompt_token_ids", "completed_at"}
    assert said[-1].text == "2 rows were written to requests.jsonl."
    assert list(tmp_path.glob(".requests*")) == []


def test_an_export_that_is_cancelled_or_cannot_be_written_leaves_no_file(
    workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    def work(registry: Registry) -> None:
        for number in range(1200):
            registry.requests.add(model_name="m", prompt=str(number))

    write(workbench, qtbot, work)
    ranges = ((0, 1199),)
    call = begin(workbench.bridge, Export(RequestListing(), 1200, ranges, tmp_path / "a.jsonl", json_line))
    with qtbot.waitSignal(call.cancelled):
        call.cancel()
    call = begin(workbench.bridge, Export(RequestListing(), 1200, ranges, tmp_path / "no" / "b.jsonl", json_line))
    with qtbot.waitSignal(call.failed) as failed:
        pass
    assert failed.args is not None and "cannot be written" in failed.args[0].message
    assert [path.name for path in tmp_path.rglob("*jsonl*")] == []
