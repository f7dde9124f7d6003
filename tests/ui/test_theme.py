"""Both themes can be read: WCAG's 4.5:1 for every pair of text and ground that the window paints."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtGui import QColor

from app.ui.theme import DARK, LIGHT, Colors

LEAST = 4.5


def luminance(color: QColor) -> float:
    """As WCAG 2.2 defines it."""

    def linear(part: float) -> float:
        return part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4

    return 0.2126 * linear(color.redF()) + 0.7152 * linear(color.greenF()) + 0.0722 * linear(color.blueF())


def contrast(first: QColor, second: QColor) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def pairs(colors: Colors) -> Iterator[tuple[str, QColor, QColor]]:
    grounds = {name: getattr(colors, name) for name in ("background", "surface", "raised")}
    for name, ground in grounds.items():
        for text in ("text", "muted", "accent", "ok", "warning", "error"):
            yield f"{text} on {name}", getattr(colors, text), ground
    for state in ("ok", "warning", "error"):
        yield f"{state} on its badge", getattr(colors, state), getattr(colors, f"{state}_soft")
    yield "text on sunken", colors.text, colors.sunken
    yield "muted on sunken", colors.muted, colors.sunken
    yield "text on selection", colors.text, colors.accent_soft
    yield "button", colors.on_accent, colors.accent
    for number, color in enumerate(colors.series):
        yield f"text in stage {number}", colors.on_accent, color


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_can_be_read_on_its_ground(colors: Colors) -> None:
    weak = {name: round(contrast(text, ground), 2) for name, text, ground in pairs(colors)}
    assert {name: ratio for name, ratio in weak.items() if ratio < LEAST} == {}


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_neighbouring_stages_are_told_apart(colors: Colors) -> None:
    for first, second in zip(colors.series, (*colors.series[1:], colors.series[0]), strict=True):
        apart = abs(first.hueF() - second.hueF())
        assert min(apart, 1 - apart) > 0.04 or contrast(first, second) > 1.2
