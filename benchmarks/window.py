"""What the window costs: time to start, stalls of its GUI thread under load, CPU while idle, memory.

Run it on a real display or under Xvfb: `xvfb-run -a -s "-screen 0 1440x900x24" python benchmarks/window.py`.
Prints a table; aims: usable within 1 s (warm), worst stall under 50 ms with 100 nodes at 1 Hz and a stream of
200 tokens/s, under 2 % of a core while idle, under 250 MB. `--nodes 1000` has more of them.
"""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent
STARTS = 5
IDLE_SECONDS = 15
STARTED = re.compile(r"window shown after (\d+) ms and usable after (\d+) ms; (\d+) ms since the process began")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="shardboard-window-") as folder:
        home = Path(folder)
        starts = [start(home) for _ in range(STARTS + 1)][1:]  # the first one makes the registry and the font cache
        shown, usable, since = (statistics.median(column) for column in zip(*starts, strict=True))
        print(f"| window shown, since its code was loaded | {shown:.0f} ms | |")
        print(f"| usable, since its code was loaded | {usable:.0f} ms | |")
        print(f"| usable, since the process began (median of {STARTS}, warm) | {since:.0f} ms | < 1000 ms |")
        cpu, memory = idle(home)
        print(f"| CPU while idle, {IDLE_SECONDS} s | {cpu:.2f} % of a core | < 2 % |")
        print(f"| memory while idle | {memory / 1e6:.0f} MB | < 250 MB |")
    if "--start" in sys.argv:
        return
    nodes = sys.argv[sys.argv.index("--nodes") + 1] if "--nodes" in sys.argv else "100"
    load = subprocess.run(
        [sys.executable, "-m", "benchmarks.window_load", nodes], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in load.stdout.splitlines():
        if line.startswith("{"):
            found = json.loads(line)
            print(f"| {found['what']} | {found['figure']} | {found['aim']} |")


def start(home: Path) -> tuple[float, float, float]:
    """One start and end of the program; milliseconds until shown and usable, and since the process began."""
    process = _open(home)
    found = _wait_started(home, process)
    _close(process)
    (home / "logs" / "controller.log").unlink()
    return found


def idle(home: Path) -> tuple[float, int]:
    """Percent of a core and bytes of memory of a window that nobody touches."""
    process = _open(home)
    _wait_started(home, process)
    time.sleep(3)
    watched = psutil.Process(process.pid)
    before, began = sum(watched.cpu_times()[:2]), time.monotonic()
    time.sleep(IDLE_SECONDS)
    used = sum(watched.cpu_times()[:2]) - before
    memory = watched.memory_info().rss
    _close(process)
    return 100 * used / (time.monotonic() - began), memory


def _open(home: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SHARDBOARD_HOME": str(home)}
    return subprocess.Popen([sys.executable, str(ROOT / "main.py")], env=environment)


def _wait_started(home: Path, process: subprocess.Popen[bytes]) -> tuple[float, float, float]:
    deadline = time.monotonic() + 60
    log = home / "logs" / "controller.log"
    while time.monotonic() < deadline and process.poll() is None:
        match = STARTED.search(log.read_text(encoding="utf-8")) if log.exists() else None
        if match:
            shown, usable, since = (float(group) for group in match.groups())
            return shown, usable, since
        time.sleep(0.02)
    raise RuntimeError("the window did not open")


def _close(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    if process.wait(30) != 0:
        raise RuntimeError(f"the window ended with {process.returncode}")


if __name__ == "__main__":
    main()
