"""How stages run, as the inspector shows it: each way with what came of it, and a sentence on what it is."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from app.runs.ways import is_lost, way_short, way_text, words_of
from app.ui.board.panes.page import Fact, Facts, Page

if TYPE_CHECKING:
    from worker_agent.wire.messages import Way

StageWays = tuple[str, tuple["Way", ...]]
"""How a stage is named, and its ways."""


def show_ways(page: Page, section: Facts, stages: Sequence[StageWays], first: Sequence[Fact] = ()) -> None:
    """Fill a section, or hide it where nothing is known. What is lost is marked.

    Args:
        first: what is said before the ways.
    """
    facts, tips, marked = way_facts(stages)
    facts = [*first, *facts]
    section.show_facts(facts, tips, marked)
    page.show_section(section, bool(facts))


def way_facts(stages: Sequence[StageWays]) -> tuple[list[Fact], dict[str, str], set[str]]:
    """(facts, tooltips by name, names of those that are lost somewhere).

    Of one stage with the reasons; of several what they do not have in common, with the reasons in the tooltip.
    """
    by_name: dict[str, list[tuple[str, Way]]] = {}
    for stage, ways in stages:
        for way in ways:
            if way_text(way):
                by_name.setdefault(way.name, []).append((stage, way))
    facts, tips, marked = [], {}, set()
    for name, found in by_name.items():
        words = words_of(name)
        if any(is_lost(way) for _, way in found):
            marked.add(words.title)
        lines = [f"{stage}: {way_text(way)}" for stage, way in found] if len(stages) > 1 else []
        facts.append((words.title, breakable(_shown(found) if lines else way_text(found[0][1]))))
        tips[words.title] = "\n".join((words.explanation, *lines))
    return facts, tips, marked


def _shown(found: Sequence[tuple[str, Way]]) -> str:
    whole = [way for _, way in found if way.used and not is_lost(way)]
    if len(whole) == len(found) and not any(way.why for _, way in found):
        return "on every stage"
    texts = {way_text(way) for _, way in found}
    if len(texts) == 1:
        return texts.pop()
    return "\n".join(
        f"{stage}: {way_text(way) if way in whole else way_short(way)}"
        for stage, way in found
        if way not in whole or way.why
    )


def breakable(text: str) -> str:
    """With places where a line may end in words that are longer than one: a label breaks between words alone."""
    return re.sub(r"\S{17,}", _broken, text)


def _broken(word: re.Match[str]) -> str:
    parts = re.sub(r"([_./])(?=[^_./])", "\\1\u200b", word.group())
    return re.sub(r"[^\u200b]{14}(?=[^\u200b]{3})", "\\g<0>\u200b", parts)
