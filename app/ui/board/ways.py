"""How stages run, as the inspector shows it: each way with what came of it, and a sentence on what it is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.runs.ways import is_lost, way_text, words_of
from app.ui.board.facts import Fact, Facts
from app.ui.board.page import Page

if TYPE_CHECKING:
    from worker_agent.messages import Way

StageWays = tuple[str, tuple["Way", ...]]
"""How a stage is named, and its ways."""


def show_ways(page: Page, section: Facts, stages: Sequence[StageWays]) -> None:
    """Fill a section, or hide it where nothing is known. What is lost is marked."""
    facts, tips, marked = way_facts(stages)
    section.show_facts(facts, tips, marked)
    page.show_section(section, bool(facts))


def way_facts(stages: Sequence[StageWays]) -> tuple[list[Fact], dict[str, str], set[str]]:
    """(facts, tooltips by name, names of those that are lost somewhere).

    A way that comes to the same on every stage is said once; else each stage says what it does.
    """
    by_name: dict[str, list[tuple[str, Way]]] = {}
    for stage, ways in stages:
        for way in ways:
            by_name.setdefault(way.name, []).append((stage, way))
    facts, tips, marked = [], {}, set()
    for name, found in by_name.items():
        words = words_of(name)
        texts = [(stage, text) for stage, way in found if (text := way_text(way))]
        if not texts:
            continue
        if any(is_lost(way) for _, way in found):
            marked.add(words.title)
        elif all(way.used for _, way in found) and len(found) > 1:
            texts = [("", "on every stage")]
        alike = len({text for _, text in texts}) == 1 and len(texts) == len(found)
        shown = (
            texts[0][1]
            if alike or (len(texts) == 1 and not texts[0][0])
            else "\n".join(f"{stage}: {text}" for stage, text in texts)
        )
        facts.append((words.title, shown))
        tips[words.title] = words.explanation
    return facts, tips, marked
