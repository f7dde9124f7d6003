"""An agent as it is, in a process in which something else holds memory for as long as a file is there.

python hoarding_agent.py FILE BYTES OPTIONS-OF-THE-AGENT…
"""

from __future__ import annotations

import runpy
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def hoard(wish: Path, nbytes: int) -> None:
    held = b""
    while True:
        if wish.exists() != bool(held):
            held = b"\1" * nbytes if wish.exists() else b""
        time.sleep(0.05)


if __name__ == "__main__":
    threading.Thread(target=hoard, args=(Path(sys.argv[1]), int(sys.argv[2])), daemon=True).start()
    sys.path.insert(0, str(ROOT))
    sys.argv = ["worker_agent", *sys.argv[3:]]
    runpy.run_module("worker_agent", run_name="__main__", alter_sys=True)
