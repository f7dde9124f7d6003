"""Makes the pictures of this folder: each screen, empty and full, light and dark, at 1280x800 and at 200 %.

    python docs/screenshots/make.py [FOLDER]

Qt draws offscreen, so no display is needed. Nodes are made up; registry, requests, log and window are real.
Each appearance is a process of its own, since Qt's scale cannot change within one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.models.description import ModelDescription

ROOT = Path(__file__).resolve().parent.parent.parent
APPEARANCES = (("light", 1), ("dark", 1), ("light", 2), ("dark", 2))


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "screenshots").resolve()
    target.mkdir(parents=True, exist_ok=True)
    for theme, scale in APPEARANCES:
        for state in ("empty", "full"):
            environment = {
                **os.environ, "QT_QPA_PLATFORM": "offscreen", "QT_SCALE_FACTOR": str(scale),
                "PYTHONPATH": str(ROOT), "SHARDBOARD_PICTURES": f"{theme} {scale} {state} {target}",
            }  # fmt: skip
            subprocess.run([sys.executable, __file__], env=environment, check=True)


def take(theme: str, scale: str, state: str, target: str) -> None:
    """One process: open the program on a fresh home, go through the screens, grab each."""
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from app.paths import Home
    from app.ui.application import Application

    qt = QApplication(["shardboard"])
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Path(folder) / "models").create()
        if state == "full":
            fill_home(home)
        application = Application(qt, home)
        application.settings.set("appearance/theme", theme)
        application.settings.set("appearance/animations", False)
        application.theme.apply(theme)
        window = application.window
        window.resize(1280, 800)
        suffix = f"{'' if state == 'full' else 'empty-'}{theme}{'' if scale == '1' else '-200'}"
        steps: list[Callable[[], None]] = []

        def picture(name: str) -> Callable[[], None]:
            return lambda: save(window, Path(target) / f"{name}-{suffix}.png")

        if state == "full":
            steps.append(lambda: fill_cluster(application))
        else:
            steps += [window.show_welcome, picture("welcome")]
        for key in ("board", "chat", "nodes", "runs", "log"):
            steps.append(lambda key=key: show(application, key, state))  # type: ignore[misc]
            if state == "full" and key == "chat":
                steps.append(lambda: open_conversation(application))
            steps.append(picture(key))
        if state == "full":
            steps += [lambda: window.show_screen("board"), window.show_palette, picture("palette")]
        steps.append(window.end)

        def following() -> None:
            if steps:
                steps.pop(0)()
                QTimer.singleShot(700, following)

        window.usable.connect(following)
        window.gone.connect(qt.quit)
        application.start()
        qt.exec()


def save(window: object, path: Path) -> None:
    """The window as it is drawn, with what lies over it."""
    from PySide6.QtCore import QPoint
    from PySide6.QtGui import QPainter
    from PySide6.QtWidgets import QApplication, QWidget

    assert isinstance(window, QWidget)
    picture = window.grab()
    painter = QPainter(picture)
    for other in QApplication.topLevelWidgets():
        if other is not window and other.isVisible():
            painter.drawPixmap(other.pos() - window.pos() + QPoint(0, 0), other.grab())
    painter.end()
    picture.save(str(path), "PNG", 0)  # the smallest file


def show(application: object, key: str, state: str) -> None:
    from app.ui.application import Application

    assert isinstance(application, Application)
    application.window.show_screen(key)
    if state == "full" and key == "board":
        application.workbench.navigate.emit("board", "Qwen3-14B")


def open_conversation(application: object) -> None:
    """The newest, now that the list has been read."""
    from PySide6.QtWidgets import QAbstractItemView

    from app.ui.application import Application

    assert isinstance(application, Application)
    conversations = application.window.findChild(QAbstractItemView, "chat-conversations")
    assert conversations is not None
    conversations.setCurrentIndex(conversations.model().index(0, 0))


def fill_home(home: object) -> None:
    """Requests, events and a conversation, as a week of use leaves them."""
    import msgspec

    from app.paths import Home
    from app.registry import EventLevel, Registry, RequestStatus
    from app.ui.chat.conversation import Conversation, Figures, Message, Role

    assert isinstance(home, Home)
    prompts = (
        "Explain pipeline parallelism to someone who has run a kitchen.", "Summarize the minutes of the last meeting",
        "Write a limerick about a router", "What is the capital of France?", "Translate to German: the shard fits",
        "List the planets by mass, as a table", "Why does decoding wait for memory and not for arithmetic?",
    )  # fmt: skip
    with Registry.open(home.registry) as registry:
        for number in range(60):
            prompt = prompts[number % len(prompts)]
            record = registry.requests.add(model_name="Qwen3-14B", prompt=prompt, prompt_token_ids=range(20))
            registry.requests.update(record.id, status=RequestStatus.PROCESSING)
            tokens = 40 + number * 7 % 300
            failed, cancelled = number % 17 == 5, number % 23 == 7
            ended = RequestStatus.CANCELLED if cancelled else RequestStatus.COMPLETED
            registry.requests.update(
                record.id,
                status=RequestStatus.FAILED if failed else ended,
                result="A pipeline is a line of cooks, each with one part of the recipe." * 3,
                error="rack-2 (layers 30-47) was lost: it has left 3 health beats unanswered." if failed else None,
                finish_reason="error" if failed else "stop", token_ids=range(tokens), completion_tokens=tokens,
                prompt_tokens=20 + number * 13 % 400,
                timings={
                    "prepare": 0.004, "first_token": 0.31 + number % 5 * 0.07, "decode": tokens / 21.5,
                    "total": 0.4 + tokens / 21.5, "tokens_per_second": 21.5 - number % 6 * 0.4,
                },
            )  # fmt: skip
        now = datetime.now(UTC)
        happened = (
            (EventLevel.INFO, "deployments", "Qwen3-14B is deployed: layers 0-21 on studio, 22-35 on rack-1."),
            (EventLevel.INFO, "health", "The agent is there."),
            (EventLevel.WARNING, "health", "The agent was started anew; what it held is gone."),
            (EventLevel.ERROR, "health", "It has left 3 health beats unanswered."),
            (EventLevel.INFO, "models", "Qwen3-14B was added."),
        )  # fmt: skip
        for number in range(80):
            level, source, message = happened[number % len(happened)]
            registry.events.add(level, source, message, node_id=number % 4 + 1, at=now - timedelta(minutes=7 * number))
    answer = (
        "Think of the model as a long recipe, and of each machine as a cook who knows **one part** of it.\n\n"
        "1. The first cook chops and hands the bowl on.\n2. The second one seasons.\n3. The last one plates and calls "
        "the next order.\n\nWhile a single order travels, the others wait; with several orders, every cook is busy. In "
        "code:\n\n```python\nfor stage in pipeline:\n    hidden = stage.run(hidden)\ntoken = sample(hidden)\n```\n"
    )
    chats = home.root / "chats"
    chats.mkdir()
    for number, title in enumerate(("Pipeline parallelism", "Minutes of Monday", "Limericks", "A table of planets")):
        conversation = Conversation(title=title, model="Qwen3-14B", updated_at=now - timedelta(hours=5 * number))
        conversation.messages = [
            Message(role=Role.USER, text=prompts[0]),
            Message(
                role=Role.ASSISTANT, text=answer, model="Qwen3-14B", request_id=60,
                figures=Figures(tokens=128, tokens_per_second=21.4, first_token=0.38, total=6.3),
            ),
        ]  # fmt: skip
        (chats / f"{conversation.id}.json").write_bytes(msgspec.json.encode(conversation))


def fill_cluster(application: object) -> None:
    """Five unlike machines with ten minutes behind them, two models, one of them deployed over three nodes."""
    import math
    from collections import deque
    from dataclasses import replace

    from app.inference.events import StepPassed
    from app.registry.records import NodeRecord
    from app.ui.application import Application
    from app.ui.cluster import Lists, Sample
    from tests.ui.simulated import MB, deployment, health, model, node_record
    from worker_agent.messages import StageTime

    assert isinstance(application, Application)
    cluster = application.workbench.cluster
    budgets = {1: 24_000, 2: 12_000, 3: 12_000, 4: 8_000, 5: 4_000}
    names = {1: "studio", 2: "rack-1", 3: "rack-2", 4: "laptop", 5: "living-room-media-pc-under-the-television"}
    chips = {1: "Apple M2 Max", 2: "NVIDIA RTX 4070", 3: "NVIDIA RTX 4070", 4: "Intel Core i7-1370P", 5: "Intel N100"}
    speeds = {1: 400e9, 2: 500e9, 3: 500e9, 4: 60e9, 5: 25e9}

    def record(id: int) -> NodeRecord:
        made = node_record(id, name=names[id], budget=budgets[id] * MB)
        measured = {"dtype": "bfloat16", "read_bytes_per_second": speeds[id], "flops_per_second": 60 * speeds[id]}
        made.capacities.update(cpu_name=chips[id], speeds=[measured])
        return made

    big = in_bfloat16(model("Qwen3-14B", layers=40, layer_bytes=660 * MB, end_bytes=1_556 * MB))
    small = model("SmolLM2-135M-Instruct", layers=30, layer_bytes=14 * MB, end_bytes=57 * MB)
    deployed = deployment("1f2e3d4c", big, [(1, 0, 22), (2, 22, 32), (3, 32, 40)])
    deployed = replace(deployed, record=replace(deployed.record, dtype="bfloat16", context=16_384, kv_tokens=16_384))
    cluster.take_lists(Lists(tuple(record(id) for id in budgets), (big, small), (deployed,)))
    used = {1: 16_700, 2: 7_000, 3: 7_200, 4: 0, 5: 0}
    now = datetime.now(UTC)
    cluster.take_node_events(
        [health(id, cpu=load(id, 599), budget=budgets[id] * MB, used=used[id] * MB, rtt=0.0004 * id) for id in budgets]
    )
    for id in budgets:
        works = id <= 3
        cluster._history[id] = deque(
            Sample(
                at=now.timestamp() - 600 + second, cpu=load(id, second),
                memory=(used[id] + 4_000 + 900 * id + 150 * math.sin(second / 70 + id)) * MB, gpu=None, gpu_memory=None,
                tokens_per_second=20.5 + math.sin(second / 25) if works and second % 240 > 60 else 0.0,
                step_ms=(12 + 3 * id + 0.6 * math.sin(second / 15 + id)) if works and second % 240 > 60 else None,
                rtt_ms=0.4 * id + 0.05 * math.sin(second / 9 + id),
            )
            for second in range(600)
        )  # fmt: skip
    times = (StageTime(0, 90, 17_000), StageTime(1, 120, 12_000), StageTime(2, 140, 11_000))
    cluster.take_steps([StepPassed("1f2e3d4c", 1, 0, times)] * 42)


def in_bfloat16(description: ModelDescription) -> ModelDescription:
    """The same bytes, as half as many bits a number."""
    import msgspec

    parts = tuple(
        msgspec.structs.replace(
            part, tensors=tuple(msgspec.structs.replace(tensor, dtype="BF16") for tensor in part.tensors)
        )
        for part in description.parts
    )
    return msgspec.structs.replace(
        description, parts=parts, dtype="bfloat16", architecture="Qwen3ForCausalLM", parameters=14_768_307_200,
        max_context=40_960, hidden_size=5120, vocab_size=151_936, kv_elements=(2048,) * description.num_layers,
        folder="/models/Qwen3-14B", source="hub", origin="Qwen/Qwen3-14B",
    )  # fmt: skip


def load(node: int, second: int) -> float:
    """Percent of CPU that a made-up node shows: three of them answer now and then, two idle."""
    import math

    wave = math.sin(second / 40 + node) + 0.35 * math.sin(second / 11 + 2 * node)
    if node > 3:
        return 7 + 2 * wave + node
    return (48 + 9 * wave + 4 * node) if second % 240 > 60 else 12 + 3 * wave


if __name__ == "__main__":
    if wanted := os.environ.get("SHARDBOARD_PICTURES"):
        take(*wanted.split(" ", 3))
    else:
        main()
