"""Run every benchmark, print the table, and write it with the machine's description to benchmarks/results.

    python benchmarks/run_all.py [--rounds 5] [--name NAME]

Takes about five minutes on a machine that does nothing else; agents run on this machine, over loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import platform
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks import cutting, decode, moving

RESULTS = Path(__file__).with_name("results")


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    processor = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        processor = names[0] if names else processor
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "system": platform.platform(),
        "python": platform.python_version(),
        "processor": processor,
        "cores": psutil.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "torch": version("torch"),
        "transformers": version("transformers"),
        "pyzmq": version("pyzmq"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--name", default="latest")
    options = parser.parse_args()
    decoded = asyncio.run(decode.run(options.rounds, 64))
    moved = asyncio.run(moving.run())
    with tempfile.TemporaryDirectory(prefix="shardboard-cutting-") as folder:
        cut = cutting.measure_cutting(Path(folder))
    rows: list[tuple[str, str, str, bool]] = []
    for each in decoded:
        rows += [
            (f"one stream over two agents / generate, {each.dtype}", f"{each.ratio_to_peer:.2f}x", ">= 1.0x",
             each.ratio_to_peer >= 1.0),
            (f"eight streams / one, {each.dtype}", f"{each.ratio_of_eight:.1f}x", ">= 4x", each.ratio_of_eight >= 4),
            (f"bytes per token and boundary, {each.dtype}", f"{each.wire_bytes:.0f}", f"<= {each.wire_limit}",
             each.wire_bytes <= each.wire_limit),
        ]  # fmt: skip
    rows += [
        ("cutting 2 GB: peak memory", f"{cut.cut_peak_bytes / 1e6:.0f} MB", "< 300 MB",
         cut.cut_peak_bytes < 300e6),
        ("cutting 2 GB / copying it", f"{cut.ratio:.2f}x", "<= 1.5x", cut.ratio <= 1.5),
        ("moving a boundary by one layer: bytes sent", f"{moved.moved:,}", f"= {moved.layer_bytes:,}",
         moved.moved == moved.layer_bytes),
    ]  # fmt: skip
    lines = ["| question | measured | goal | |", "| --- | --- | --- | --- |"]
    lines += [f"| {what} | {found} | {goal} | {'yes' if met else 'NO'} |" for what, found, goal, met in rows]
    table = "\n".join(lines)
    print(table)
    RESULTS.mkdir(exist_ok=True)
    described = "\n".join(f"- {name}: {value}" for name, value in machine().items())
    figures = {"decode": [asdict(each) for each in decoded], "moving": asdict(moved), "cutting": asdict(cut)}
    text = f"# Figures\n\n{described}\n\n{table}\n\n```json\n{json.dumps(figures, indent=2, default=str)}\n```\n"
    (RESULTS / f"{options.name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
