"""What the command line shows: tables, JSON, progress bars, errors.

Answers go to stdout, everything else to stderr, so that `shardboard … | program` works. Names and texts come from
models and other machines: they are never read as markup, and control characters do not reach the terminal.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import TransferSpeedColumn as SpeedColumn
from rich.table import Table
from rich.text import Text

from app.children.work import JobProgress
from app.errors import ShardboardError
from app.progress import amount_words, phase_words

if TYPE_CHECKING:
    from app.runs.telling import Telling

Cell = str | int | float | bool | datetime | None

_CONTROL = dict.fromkeys([*range(9), *range(11, 32), 127, *range(128, 160)])
"""Control characters but tab and line feed: they could move the cursor or retitle the window."""


def printable(text: str) -> str:
    """The text without control characters."""
    return text.translate(_CONTROL)


def print_json(value: Any) -> None:
    """A record, a Struct or a list of them to stdout."""
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value, enc_hook=_path_text), indent=2).decode() + "\n")


def _path_text(value: Any) -> str:
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Cell]], empty: str) -> None:
    """A table to stdout; long cells are folded, numbers stand at the right. Without rows the sentence `empty`."""
    cells = [[_cell(value) for value in row] for row in rows]
    console = Console(highlight=False)
    if not cells:
        console.print(Text(empty))
        return
    table = Table(title=title, title_justify="left", header_style="bold")
    for index, name in enumerate(columns):
        numeric = all(row[index].justify == "right" for row in cells)
        table.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for row in cells:
        table.add_row(*row)
    console.print(table)


def print_fields(fields: Iterable[tuple[str, Cell]]) -> None:
    """One thing's figures to stdout, a line each."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields:
        cell = _cell(value)
        cell.justify = "left"
        table.add_row(name, cell)
    Console(highlight=False).print(table)


def print_telling(told: Telling) -> None:
    """All that is said of a run, to stdout."""
    console = Console(highlight=False)

    def say(text: str, style: str = "") -> None:
        console.print(Text(printable(text), style=style))

    say(f"{told.title} ({told.state.lower()})", "bold")
    for text, style in ((told.run.error, "red"), (told.advice, ""), (told.insight, "")):
        if text:
            say(text, style)
    for part in told.times:
        say(f"  {part.name}: {part.words}", "dim")
    for section in told.all_sections():
        say(f"\n{section.title}", "bold")
        print_fields(section.facts)
    for passage in told.passages:
        say(f"\n{passage.title}", "bold")
        say(passage.text or passage.note)


def note(text: str) -> None:
    """A remark to stderr. Where that cannot be written to (a terminal that was closed) the work goes on without."""
    with suppress(OSError):
        stderr().print(Text(printable(text), style="dim"))


def show_error(error: ShardboardError) -> None:
    """What failed in red, what to do about it below, to stderr."""
    console = stderr()
    with suppress(OSError):
        console.print(Text(printable(error.message), style="red"))
        if error.advice:
            console.print(Text(printable(error.advice)))


@contextmanager
def progress_shown(quiet: bool = False) -> Iterator[ProgressBars]:
    """Bars on stderr while the block runs, when that is a terminal."""
    console = stderr()
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        _Amount(),
        _Speed(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as bars:
        yield ProgressBars(bars)


class _Amount(ProgressColumn):
    def render(self, task: Task) -> Text:
        words = amount_words(int(task.completed), int(task.total or 0), task.fields["unit"])
        return Text(words, style="progress.download")


class _Speed(SpeedColumn):
    """Of bytes."""

    def render(self, task: Task) -> Text:
        return super().render(task) if task.fields["unit"] == "bytes" else Text("")


class ProgressBars:
    """A bar for each phase of the work. The methods are callbacks and may be called from any thread."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def job(self, progress: JobProgress) -> None:
        """How far reading, downloading, cutting, … is; each node by itself where several get somewhere."""
        nodes = [node for node in progress.nodes if node.phase == progress.phase]
        for node in nodes:
            self.show(f"{phase_words(node.phase)}, {node.node}", node.done_bytes, node.total_bytes, node.unit)
        if not nodes:
            self.show(phase_words(progress.phase), progress.done_bytes, progress.total_bytes, progress.unit)

    def show(self, label: str, done: int, total: int, unit: str = "bytes") -> None:
        """How far something is that has this label; a total of 0 is one that nobody knows."""
        if label not in self._tasks:
            self._tasks[label] = self._bars.add_task(printable(label), unit=unit)
        self._bars.update(self._tasks[label], completed=done, total=total or None)


def _cell(value: Cell) -> Text:
    if value is None:
        return Text("–")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, datetime):
        return Text(value.astimezone().strftime("%Y-%m-%d %H:%M:%S"))
    if isinstance(value, int | float):
        return Text(str(value), justify="right")
    return Text(printable(value))


def stderr() -> Console:
    """For what is not the result itself."""
    return Console(stderr=True, highlight=False)
