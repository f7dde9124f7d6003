"""The screen Runs on a real registry: find, open, copy, ask again, remove, export."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QLabel, QMessageBox
from pytestqt.qtbot import QtBot

from app.controller import Controller
from app.registry import JobStatus, Registry, RequestStatus
from app.runs.run import Run
from app.runs.trace import RequestTrace
from app.serving import Serving
from app.ui.notices import Notice
from app.ui.runs.export_dialog import ExportDialog
from app.ui.runs.export_work import Form
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
        id="deadbeef", model_name="smollm", plan_hash="ab", serving=Serving("bfloat16", 2048, 4096)
    )


@pytest.fixture
def screen(workbench: Workbench, qtbot: QtBot) -> RunsScreen:
    write(workbench, qtbot, fill)
    screen = RunsScreen(workbench)
    qtbot.addWidget(screen)
    screen.resize(1180, 740)
    with qtbot.waitExposed(screen):
        screen.show()
    qtbot.waitUntil(lambda: screen.detail.told is not None)
    return screen


def rows(screen: RunsScreen, column: int) -> list[str]:
    model = screen.panel.model
    return [str(model.index(row, column).data()) for row in range(model.rowCount())]


def open_request(screen: RunsScreen, qtbot: QtBot, id: int) -> None:
    screen.open_with(id)
    qtbot.waitUntil(lambda: screen.detail.told is not None and screen.detail.told.id == id)


def clipboard() -> str:
    return QGuiApplication.clipboard().text()


def shown(screen: RunsScreen) -> str:
    return "\n".join(label.text() for label in screen.detail.findChildren(QLabel) if label.isVisibleTo(screen))


def test_the_newest_request_is_first_and_open(screen: RunsScreen) -> None:
    assert rows(screen, 0) == ["Waiting", "Cancelled", "Failed", "Done"]
    assert rows(screen, 2)[3] == "What is the capital of France?"
    assert (rows(screen, 7)[3], rows(screen, 8)[3]) == ("1.0", "400 ms")
    assert screen.detail.told is not None and screen.detail.told.id == 4
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
    qtbot.waitUntil(lambda: screen.detail.told is not None and screen.detail.told.answer == "Hi.")
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
    qtbot.waitUntil(lambda: screen.detail.told is not None and screen.detail.told.run.kind == "job")
    assert rows(screen, 2) == ["Cut smollm into 2 shards"]
    qtbot.waitUntil(lambda: "layers 0–14, layers 15–29" in shown(screen) and "538 MB" in shown(screen))
    screen.open_with("deadbeef")
    qtbot.waitUntil(lambda: screen.detail.told is not None and screen.detail.told.run.kind == "deployment")
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


def export_dialog(screen: RunsScreen, *, one: bool = False) -> ExportDialog:
    (screen.detail.export if one else screen._export).trigger()
    assert screen.export_dialog is not None
    return screen.export_dialog


def test_an_export_writes_all_that_the_filters_leave(
    screen: RunsScreen, workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    said: list[Notice] = []
    workbench.notices.toasted.connect(said.append)
    screen.filters.states.setCurrentText("Failed")
    qtbot.waitUntil(lambda: rows(screen, 0) == ["Failed"])
    screen.filters.states.setCurrentText("Any state")
    screen.filters.search.setText("t")
    qtbot.waitUntil(lambda: screen.panel.model.total == 3)
    dialog = export_dialog(screen)
    assert dialog.what.currentText() == "All 3 requests that the filters leave"
    assert not dialog.forms[Form.BUNDLE].isEnabled(), "a bundle is of one request"
    dialog.file.setText(str(tmp_path / "requests.jsonl"))
    with qtbot.waitSignal(dialog.finished):
        dialog.go.click()
    lines = (tmp_path / "requests.jsonl").read_bytes().splitlines()
    runs = [msgspec.json.decode(line, type=Run) for line in lines]
    assert [run.id for run in runs] == ["3", "2", "1"]
    assert runs[2].request is not None and runs[2].request.result == "Paris."
    assert said[-1].text == "3 requests exported to requests.jsonl."
    assert [action.text for action in said[-1].actions] == ["Open", "Show in folder"]
    assert [path.name for path in tmp_path.glob("*jsonl*")] == ["requests.jsonl"]


@pytest.mark.parametrize("form", [Form.CSV, Form.HTML, Form.CHROME, Form.BUNDLE])
def test_one_request_leaves_in_every_form(
    screen: RunsScreen, qtbot: QtBot, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    open_request(screen, qtbot, 1)
    dialog = export_dialog(screen, one=True)
    assert dialog.what.currentText() == "The selected request"
    dialog.forms[form].click()
    file = tmp_path / f"request-1{form.suffix}"
    assert dialog.file.text() == str(file)
    with qtbot.waitSignal(dialog.finished):
        dialog.go.click()
    content = file.read_bytes()
    begins = {Form.CSV: b"kind,", Form.HTML: b"<!doctype html>", Form.CHROME: b"{", Form.BUNDLE: b"PK"}
    assert content.lower().startswith(begins[form].lower())


def test_a_range_of_time_is_exported_and_another_form_changes_the_ending_alone(
    screen: RunsScreen, qtbot: QtBot, tmp_path: Path
) -> None:
    dialog = export_dialog(screen)
    dialog.what.setCurrentIndex(dialog.what.count() - 1)
    assert dialog.since.isVisible()
    dialog.file.setText(str(tmp_path / "mine.jsonl"))
    dialog.file.textEdited.emit(dialog.file.text())
    dialog.forms[Form.CSV].click()
    assert dialog.file.text() == str(tmp_path / "mine.csv")
    dialog.forms[Form.JSONL].click()
    with qtbot.waitSignal(dialog.finished):
        dialog.go.click()
    assert len((tmp_path / "mine.jsonl").read_bytes().splitlines()) == 4
    dialog = export_dialog(screen)
    dialog.what.setCurrentIndex(dialog.what.count() - 1)
    dialog.since.setDateTime(dialog.since.dateTime().addDays(-30))
    dialog.until.setDateTime(dialog.until.dateTime().addDays(-20))
    dialog.file.setText(str(tmp_path / "then.jsonl"))
    with qtbot.waitSignal(dialog.finished):
        dialog.go.click()
    assert (tmp_path / "then.jsonl").read_bytes() == b""


def test_a_folder_that_is_not_there_is_told_in_the_dialog_which_stays(
    screen: RunsScreen, qtbot: QtBot, tmp_path: Path
) -> None:
    dialog = export_dialog(screen)
    dialog.file.setText(str(tmp_path / "no" / "a.jsonl"))
    dialog.go.click()
    qtbot.waitUntil(lambda: "cannot be written" in dialog.note.text())
    assert dialog.isVisible() and dialog.go.isEnabled() and not dialog.is_writing
    dialog.file.setText(str(tmp_path / "a.jsonl"))
    with qtbot.waitSignal(dialog.finished):
        dialog.go.click()
    assert (tmp_path / "a.jsonl").is_file()


def test_an_export_that_is_cancelled_leaves_no_file(
    screen: RunsScreen, workbench: Workbench, qtbot: QtBot, tmp_path: Path
) -> None:
    def work(registry: Registry) -> None:
        for number in range(1200):
            registry.requests.add(model_name="m", prompt=str(number))

    write(workbench, qtbot, work)
    qtbot.waitUntil(lambda: screen.panel.model.total == 1204)
    dialog = export_dialog(screen)
    dialog.file.setText(str(tmp_path / "a.jsonl"))
    said: list[Notice] = []
    workbench.notices.toasted.connect(said.append)
    dialog.go.click()
    assert screen.busy_with() == ["an export of runs"]
    with qtbot.waitSignal(dialog.finished):
        dialog.cancel.click()
    assert list(tmp_path.glob("*jsonl*")) == [] and "cancelled" in said[-1].text
    assert screen.busy_with() == []


class Answering:
    """Stands for a request under way, of which the registry has not heard all yet."""

    record = SimpleNamespace(prompt_tokens=3)

    def trace(self) -> RequestTrace:
        return RequestTrace()

    def as_of_now(self, run: Run) -> Run:
        assert run.request is not None
        return msgspec.structs.replace(run, request=msgspec.structs.replace(run.request, result="Hello, wor"))


def test_of_a_request_under_way_the_answer_so_far_is_shown(
    screen: RunsScreen, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Controller, "find_request", lambda controller, id: Answering() if id == 4 else None)
    open_request(screen, qtbot, 1)
    open_request(screen, qtbot, 4)
    assert screen.detail.told is not None and screen.detail.told.answer == "Hello, wor"
