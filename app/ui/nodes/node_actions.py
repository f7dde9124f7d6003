"""What can be done with nodes: the actions behind toolbar, menus and palette, and the calls that carry them out."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QDialog, QWidget

from app.cluster.node_state import ANSWERING, Heard, NodeState
from app.errors import ShardboardError
from app.registry.records import NodeRecord
from app.ui import make
from app.ui.bridge import Call, window_origin
from app.ui.nodes.machines_dialog import MachinesDialog, Way
from app.ui.nodes.node_words import address_of, details_text, listed
from app.ui.notices import Level
from app.ui.snapshots import NodeSnapshot
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller

_STARTABLE = frozenset({NodeState.STOPPED, NodeState.DOWN})


class NodeActions(QObject):
    """`take_selection` tells it what it is about. `wanted` asks the screen to select nodes."""

    wanted = Signal(object)
    """A tuple of node ids that were just added."""

    def __init__(self, workbench: Workbench, window: QWidget) -> None:
        super().__init__(window)
        self._workbench, self._window = workbench, window
        self._selected: tuple[int, ...] = ()
        self._under_way: dict[Call, str] = {}
        make = self._make
        self.add = make("Add node…", "plus", self.open_add, "Ins", "Add an agent that runs on another machine")
        self.start_here = make("Start agents here…", "rocket", self.open_start, "Ctrl+Shift+A", "Start agents here")
        self.invite = make("Invite a machine…", "link", self.open_invite, "Ctrl+Shift+I", "Make a command to join with")
        self.over_ssh = make(
            "Add over SSH…", "terminal", self.open_ssh, "", "Put an agent on a machine that SSH reaches"
        )
        self.by_ray = make("Bring by Ray…", "boxes", self.open_ray, "", "Have Ray start agents on nodes of its cluster")
        self.machines = make("Add machines…", "plus", self.open_machines, "", "All ways to machines")
        self.find = make("Find machines…", "search", self.open_find, "", "See who waits on this network")
        self.links = make("Links…", "network", self.open_links, "", "How fast nodes reach each other; measure it")
        self.start = make("Start agent", "play", self._start, "", "Start stopped agents that were brought from here")
        self.stop = make("Stop agent", "circle-stop", self._stop, "", "End agents brought from here; nodes stay known")
        self.renew = make("Update agent", "refresh-cw", self._renew, "", "Start agents anew with today's program")
        self.drain = make("Drain", "unplug", self._drain, "", "Give no new work; what runs goes on")
        self.take_back = make("Take back", "plug", self._take_back, "", "Give new work again")
        self.remove = make("Remove…", "trash-2", self.ask_remove, "Del", "Forget nodes, and end those started here")
        self.remove_ghosts = make(
            "Remove ghosts…", "trash-2", self.ask_remove_ghosts, "", "Forget nodes that will hardly come back"
        )
        self.copy_address = make("Copy address", "copy", self._copy_address, "Ctrl+C", "Copy host and port")
        self.copy_details = make("Copy details", "clipboard-copy", self._copy_details, "Ctrl+Shift+C", "Copy all known")
        self.show_on_board = make("Show on board", "layout-dashboard", self._show_on_board, "", "Go to the board")
        self.show_log = make("Show log", "scroll-text", self._show_log, "", "What this node has told")
        self.take_selection(())

    def all(self) -> list[QAction]:
        return [*self.adding(), *self.about_nodes()]

    def adding(self) -> list[QAction]:
        """Those that need no node."""
        return [
            self.machines, self.start_here, self.find, self.over_ssh, self.by_ray, self.invite, self.add, self.links,
        ]  # fmt: skip

    def ways(self) -> list[Way]:
        """To machines, in the order in which they are offered."""
        return [
            Way(self.start_here, "rocket", "Agents on this machine, each with its share of it.", "local"),
            Way(self.find, "search", "Machines in this network whose agents wait to be found (agent.sh --wait)."),
            Way(self.over_ssh, "terminal", "A machine that you reach over SSH: the agent is put there.", "ssh"),
            Way(self.by_ray, "boxes", "Nodes of a Ray cluster, on Kubernetes, too: Ray starts agents there, and again "
                "when they end.", "ray"),
            Way(self.invite, "link", "Any machine: a line to paste there, which works over any network."),
            Way(self.add, "plus", "An agent that runs already, by its address and its key."),
        ]  # fmt: skip

    def about_nodes(self) -> list[QAction]:
        return [
            self.start, self.stop, self.renew, self.drain, self.take_back, self.copy_address, self.copy_details,
            self.show_on_board, self.show_log, self.remove, self.remove_ghosts,
        ]  # fmt: skip

    def busy_with(self) -> list[str]:
        """Calls under way, as short phrases."""
        return list(self._under_way.values())

    def take_selection(self, nodes: Sequence[int]) -> None:
        """These are selected, and as they are now decides what can be done."""
        self._selected = tuple(nodes)
        views = self._views()
        self.start.setEnabled(bool(self._those(lambda view: view.is_ours and view.state in _STARTABLE)))
        self.stop.setEnabled(bool(self._those(lambda view: view.is_ours and view.state in ANSWERING)))
        self.renew.setEnabled(bool(self._those(lambda view: view.is_ours)))
        self.drain.setEnabled(bool(self._those(lambda v: v.state in ANSWERING and not v.record.draining)))
        self.take_back.setEnabled(bool(self._those(lambda v: v.state in ANSWERING and v.record.draining)))
        self.remove_ghosts.setEnabled(bool(self._workbench.cluster.ghosts()))
        for action in (self.remove, self.copy_address, self.copy_details):
            action.setEnabled(bool(views))
        for action in (self.show_on_board, self.show_log):
            action.setEnabled(len(views) == 1)

    # --- dialogs ---

    @Slot()
    def open_add(self) -> QDialog:
        from app.ui.nodes.add_dialog import AddNodeDialog

        dialog = AddNodeDialog(self._workbench, self._window)
        dialog.added.connect(self._on_added)
        return _opened(dialog)

    @Slot()
    def open_start(self) -> QDialog:
        from app.ui.nodes.start_dialog import StartAgentsDialog

        dialog = StartAgentsDialog(self._workbench, self._window)
        dialog.started.connect(self.wanted)
        return _opened(dialog)

    @Slot()
    def open_invite(self) -> QDialog:
        from app.ui.nodes.invite_dialog import InviteDialog

        dialog = InviteDialog(self._workbench, self._window)
        dialog.joined.connect(self._on_added)
        return _opened(dialog)

    @Slot()
    def open_ssh(self) -> QDialog:
        from app.ui.nodes.ssh_dialog import SshDialog

        dialog = SshDialog(self._workbench, self._window)
        dialog.added.connect(self._on_added)
        return _opened(dialog)

    @Slot()
    def open_ray(self) -> QDialog:
        from app.ui.nodes.ray_dialog import RayDialog

        dialog = RayDialog(self._workbench, self._window)
        dialog.added.connect(self.wanted)
        return _opened(dialog)

    @Slot()
    def open_machines(self) -> QDialog:
        return _opened(MachinesDialog(self._workbench, self.ways(), self._window))

    @Slot()
    def open_find(self) -> QDialog:
        from app.ui.nodes.find_dialog import FindDialog

        dialog = FindDialog(self._workbench, self._window)
        dialog.joined.connect(self._on_added)
        return _opened(dialog)

    @Slot()
    def open_links(self) -> QDialog:
        from app.ui.nodes.links_dialog import LinksDialog

        return _opened(LinksDialog(self._workbench, self._window))

    @Slot()
    def ask_remove(self) -> QDialog:
        return self._ask_to_remove(self._views())

    @Slot()
    def ask_remove_ghosts(self) -> QDialog:
        cluster = self._workbench.cluster
        return self._ask_to_remove([cluster.nodes[id] for id in cluster.ghosts()])

    def _ask_to_remove(self, views: Sequence[NodeSnapshot]) -> QDialog:
        from app.ui.nodes.remove_dialog import RemoveNodesDialog

        dialog = RemoveNodesDialog(self._workbench.cluster, views, self._window)
        dialog.accepted.connect(partial(self._remove, views))
        return _opened(dialog)

    @Slot(object)
    def _on_added(self, record: NodeRecord) -> None:
        self.wanted.emit((record.id,))

    # --- carrying out ---

    @Slot()
    def _start(self) -> None:
        for view in self._those(lambda view: view.is_ours and view.state in _STARTABLE):
            self._workbench.cluster.take_heard(view.id, Heard(False, starting=True))
            self._do(view, "start", lambda controller, id: controller.start_agent(id, origin=window_origin()))

    @Slot()
    def _stop(self) -> None:
        for view in self._those(lambda view: view.is_ours and view.state in ANSWERING):
            self._do(view, "stop", lambda controller, id: controller.stop_agent(id, origin=window_origin()))

    @Slot()
    def _renew(self) -> None:
        for view in self._those(lambda view: view.is_ours):
            self._do(view, "update", _update)

    @Slot()
    def _drain(self) -> None:
        for view in self._those(lambda v: v.state in ANSWERING and not v.record.draining):
            self._do(view, "drain", partial(_drained, draining=True))

    @Slot()
    def _take_back(self) -> None:
        for view in self._those(lambda v: v.state in ANSWERING and v.record.draining):
            self._do(view, "take back", partial(_drained, draining=False))

    def _remove(self, views: Sequence[NodeSnapshot]) -> None:
        removed: list[str] = []

        def on_done(name: str) -> None:
            removed.append(name)
            if len(removed) == len(views):
                self._workbench.notices.toast(f"Removed {listed(removed[:3])}.", Level.INFO)

        for view in views:
            call = self._do(view, "remove", lambda controller, id: controller.remove_node(str(id)))
            call.done.connect(partial(_call_with, on_done, view.name))

    def _do(self, view: NodeSnapshot, verb: str, work: Callable[[Controller, int], object]) -> Call:
        """Carry one thing out on one node; a failure is told with the node's name and a way to try again."""

        async def carry_out(controller: Controller, report: object) -> object:
            return await work(controller, view.id)  # type: ignore[misc]  # a coroutine of whatever it returns

        call = self._workbench.bridge.call(carry_out, f"trying to {verb} {view.name}")
        self._under_way[call] = f"{_DOING[verb]} {view.name}"
        call.failed.connect(partial(self._on_failed, f"Could not {verb} {view.name}"))
        call.ended.connect(partial(self._on_ended, call))
        return call

    def _on_failed(self, what: str, error: ShardboardError) -> None:
        self._workbench.notices.error(what, error)

    def _on_ended(self, call: Call) -> None:
        self._under_way.pop(call, None)

    # --- looking ---

    @Slot()
    def _copy_address(self) -> None:
        QGuiApplication.clipboard().setText("\n".join(address_of(view) for view in self._views()))
        self._workbench.notices.toast("Address copied." if len(self._views()) == 1 else "Addresses copied.")

    @Slot()
    def _copy_details(self) -> None:
        deployments = self._workbench.cluster.deployments
        QGuiApplication.clipboard().setText("\n\n".join(details_text(view, deployments) for view in self._views()))
        self._workbench.notices.toast("Details copied.")

    @Slot()
    def _show_on_board(self) -> None:
        for view in self._views()[:1]:
            there = self._workbench.cluster.deployments_on(view.id)
            self._workbench.navigate.emit("board", there[0].record.model_name if there else None)

    @Slot()
    def _show_log(self) -> None:
        for view in self._views()[:1]:
            self._workbench.navigate.emit("log", view.id)

    # --- within ---

    def _views(self) -> list[NodeSnapshot]:
        nodes = self._workbench.cluster.nodes
        return [nodes[id] for id in self._selected if id in nodes]

    def _those(self, test: Callable[[NodeSnapshot], bool]) -> list[NodeSnapshot]:
        return [view for view in self._views() if test(view)]

    def _make(self, text: str, icon_name: str, run: Callable[[], object], shortcut: str, tip: str) -> QAction:
        action = make.command(self, icon_name, text, run, keys=shortcut, tip=tip)
        action.setIconText(text.rstrip("…"))
        return action


_DOING = {"start": "starting", "stop": "stopping", "update": "updating", "drain": "draining",
          "take back": "taking back", "remove": "removing"}  # fmt: skip


def _drained(controller: Controller, id: int, draining: bool) -> Coroutine[Any, Any, NodeRecord]:
    return controller.drain_node(str(id), draining, origin=window_origin())


def _update(controller: Controller, id: int) -> Coroutine[Any, Any, NodeRecord]:
    from app.launching import update_agent  # loaded with the controller

    return update_agent(controller, str(id), origin=window_origin())


def _call_with(function: Callable[[str], None], name: str, result: object) -> None:
    function(name)


def _opened(dialog: QDialog) -> QDialog:
    dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
    dialog.open()
    return dialog
