"""Agents on this machine, as a launcher: `NodeDirectory` has them, under the names that all launchers have."""

from __future__ import annotations

from collections.abc import Mapping

from app.cluster.nodes import NodeDirectory
from app.launchers.launcher import LauncherName, LocalWish, Report, unheard
from app.registry import NodeRecord


class ThisMachine:
    """A `Launcher`. Its agents outlive this process; `app/cluster/launching.py` finds them again."""

    name: LauncherName = "local"
    title = "This machine"

    def __init__(self, nodes: NodeDirectory) -> None:
        self._nodes = nodes

    def problem(self) -> str:
        return ""

    async def start(self, wish: LocalWish, report: Report = unheard) -> list[NodeRecord]:
        report("starting agents here")
        return await self._nodes.start_local(
            wish.count, threads=wish.threads, memory=wish.memory, device=wish.device, keep=wish.keep
        )

    async def keys(self) -> frozenset[str]:
        return await self._nodes.launched_here()

    async def stop(self, node: NodeRecord) -> NodeRecord:
        return await self._nodes.stop(node.id)

    async def start_again(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        report("starting the agent here")
        return await self.revive(node, None)

    async def revive(self, node: NodeRecord, keep: bool | None) -> NodeRecord:
        """As `start_again`.

        Args:
            keep: whether it goes on when the window closes; None leaves that as it is.
        """
        return await self._nodes.revive(node.id, keep=keep)

    async def update(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        await self.stop(node)
        return await self.start_again(node, report)

    async def remove(self, node: NodeRecord) -> None:
        """Nothing is left to do: removing the node ends an agent of this machine, once it has unloaded."""

    def gone(self) -> Mapping[str, str]:
        return {}
