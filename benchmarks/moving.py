"""What moving one boundary by one layer sends: the bytes of one layer, and nothing the second time.

python benchmarks/moving.py
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.jobs.works import DeployWork
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.registry import NodeRecord
from app.runs.trace import UNKNOWN
from benchmarks.decode import MODEL


@dataclass(frozen=True)
class MovingFigures:
    """Bytes of weights that went over the wire."""

    layer_bytes: int
    first_time: int
    """To deploy the model on two empty nodes."""
    moved: int
    """To move the boundary by one layer."""
    moved_back: int


async def run() -> MovingFigures:
    root = Path(tempfile.mkdtemp(prefix="shardboard-moving-"))
    home = Home(root=root, models=Path(os.environ.get("MODEL_CACHE_DIR") or root / "models")).create()
    controller = await Controller.open(home)
    nodes: list[NodeRecord] = []
    try:
        description = await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        nodes = await controller.launch_local(2)

        async def sent(layers: str) -> int:
            placement = await controller.plan(MODEL, nodes=[node.id for node in nodes], layers=layers)
            deployed = await controller.jobs.do(DeployWork(placement), UNKNOWN)
            await controller.undeploy(MODEL)
            return deployed.sent_bytes

        return MovingFigures(
            layer_bytes=description.layers[15].nbytes,
            first_time=await sent("0-14,15-29"),
            moved=await sent("0-15,16-29"),
            moved_back=await sent("0-14,15-29"),
        )
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))
        await controller.close()


if __name__ == "__main__":
    print(asyncio.run(run()))
