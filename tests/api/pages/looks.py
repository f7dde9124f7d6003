"""What can be measured of how a page looks. Each script gives a list of faults."""

from __future__ import annotations

from pathlib import Path

HERE = Path(__file__).parent

CONTRAST = (HERE / "contrast.js").read_text(encoding="utf-8")
OVERFLOW = (HERE / "overflow.js").read_text(encoding="utf-8")
NAMES = (HERE / "names.js").read_text(encoding="utf-8")
OUTLINE = """
const style = getComputedStyle(document.activeElement);
return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
"""
"""Whether what has the focus can be seen to have it."""
