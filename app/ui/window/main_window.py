"""The main window: five screens, docks, menus, the status bar; what it shows while it opens and how it closes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtCore import QByteArray, Qt, QUrl, Signal, Slot
from PySide6.QtGui import QActionGroup, QCloseEvent, QDesktopServices, QKeySequence
from PySide6.QtWidgets import QDockWidget, QMainWindow, QStackedWidget, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.icons import icon
from app.ui.screen import Screen
from app.ui.shell.banners import BannerBar
from app.ui.shell.command_palette import CommandPalette, PaletteEntry
from app.ui.shell.toasts import ToastArea
from app.ui.window.closing import Answer, AskDialog, Closing, ClosingDialog
from app.ui.window.menus import Menus, action
from app.ui.window.navigation import NavigationRail
from app.ui.window.opening import OpeningPage
from app.ui.window.status_bar import StatusBar
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.ui.shell.first_run import WelcomePage

SCREENS = (
    ("board", "Board", "layout-dashboard"),
    ("chat", "Chat", "message-square"),
    ("nodes", "Nodes", "server"),
    ("runs", "Runs", "history"),
    ("log", "Log", "scroll-text"),
)
LAYOUT_VERSION = 1


def make_screen(key: str, workbench: Workbench) -> Screen:
    """A screen, with the modules it needs; they are loaded when it is first shown."""
    match key:
        case "board":
            from app.ui.board.board_screen import BoardScreen

            return BoardScreen(workbench)
        case "chat":
            from app.ui.chat.chat_screen import ChatScreen

            return ChatScreen(workbench)
        case "nodes":
            from app.ui.nodes.nodes_screen import NodesScreen

            return NodesScreen(workbench)
        case "runs":
            from app.ui.runs.runs_screen import RunsScreen

            return RunsScreen(workbench)
        case _:
            from app.ui.log.log_screen import LogScreen

            return LogScreen(workbench)


class MainWindow(QMainWindow):
    """Screens, docks and menus around one workbench. `gone` comes when everything behind it has ended."""

    usable = Signal()
    """The first screen is there, with what the registry holds."""
    gone = Signal()

    def __init__(self, workbench: Workbench) -> None:
        super().__init__()
        self.workbench = workbench
        self.screens: dict[str, Screen] = {}
        self._welcome: WelcomePage | None = None
        self._ready_to_close = False
        self._waiting = False
        self._closing: Closing | None = None
        self._palette: CommandPalette | None = None
        self.setWindowTitle("Shardboard")
        self.setWindowIcon(icon("boxes"))
        self.resize(1280, 800)
        self.setMinimumSize(760, 480)

        self.rail = NavigationRail(SCREENS)
        self.rail.chosen.connect(self.show_screen)
        self.pages = QStackedWidget()
        self.opening = OpeningPage()
        self.pages.addWidget(self.opening)
        self._banners = BannerBar(workbench.notices, workbench.theme)
        middle = QWidget()
        make.column(self._banners, (self.pages, 1), within=middle, spacing=0)
        central = QWidget()
        make.row(self.rail, (middle, 1), within=central, spacing=0)
        self.setCentralWidget(central)
        self._toasts = ToastArea(workbench.notices, workbench.theme, central, workbench.settings)
        self.status = StatusBar(workbench)
        self.setStatusBar(self.status)
        self._dock = self._make_dock()
        self.menus = Menus(self.menuBar())
        self._fill_menus()

        self._later = make.timer(self, self._close_when_idle, 500, once=False)
        workbench.navigate.connect(self.open_screen)
        workbench.cluster.loaded.connect(self._on_loaded)
        workbench.bridge.open_failed.connect(self._on_open_failed)
        self._restore()

    # --- opening ---

    @Slot()
    def _on_loaded(self) -> None:
        cluster = self.workbench.cluster
        if cluster.nodes or cluster.models:
            key = str(self.workbench.settings.state("window").get("screen", "board"))
            self.show_screen(key if key in {each for each, _, _ in SCREENS} else "board")
        else:
            self.show_welcome()
        self.usable.emit()

    @Slot(object)
    def _on_open_failed(self, error: ShardboardError) -> None:
        self.opening.show_error(error)

    # --- screens ---

    def screen_of(self, key: str) -> Screen:
        """A screen, made when it is first asked for."""
        if key not in self.screens:
            made = make_screen(key, self.workbench)
            made.restore(self.workbench.settings.state(key))
            commands = made.commands()
            for command in commands:
                # A shortcut is its screen's: the same keys may mean something else elsewhere.
                command.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
            made.addActions(commands)
            self.screens[key] = made
            self.pages.addWidget(made)
            self.menus.menu(made.title).addActions(commands)
        return self.screens[key]

    @Slot(str)
    def show_screen(self, key: str) -> None:
        self.open_screen(key, None)

    @Slot(str, object)
    def open_screen(self, key: str, what: object) -> None:
        """Show a screen, with something in it if `what` is given; "welcome" is the first-run page."""
        if not self.workbench.cluster.is_loaded:
            return
        if key == "welcome":
            self.show_welcome()
            return
        if key == "preferences":
            self._open_preferences(str(what or ""))
            return
        screen = self.screen_of(key)
        self.pages.setCurrentWidget(screen)
        self.rail.show_current(key)
        screen.setFocus()
        if what is not None:
            screen.open_with(what)

    def show_welcome(self) -> None:
        if self._welcome is None:
            from app.ui.shell.first_run import WelcomePage

            self._welcome = WelcomePage(self.workbench)
            self.pages.addWidget(self._welcome)
        self.pages.setCurrentWidget(self._welcome)
        self.rail.show_current("welcome")

    @property
    def current_key(self) -> str:
        shown = self.pages.currentWidget()
        return shown.key if isinstance(shown, Screen) else "welcome"

    # --- menus ---

    def _fill_menus(self) -> None:
        file = self.menus.menu("File")
        file.addAction(action(self, "Add a model…", "plus", self._add_model, QKeySequence.StandardKey.Open))
        file.addAction(action(self, "Cut a model into shards…", "scissors", self._cut, "Ctrl+Shift+X"))
        file.addSeparator()
        self._preferences = action(self, "Preferences…", "settings", self._show_preferences, "Ctrl+,")
        file.addAction(self._preferences)
        file.addSeparator()
        file.addAction(action(self, "Quit", "power", self.close, QKeySequence.StandardKey.Quit))
        view = self.menus.menu("View")
        for number, (key, title, icon_name) in enumerate(SCREENS, start=1):
            view.addAction(action(self, title, icon_name, partial(self.show_screen, key), f"Ctrl+{number}"))
        view.addSeparator()
        self._palette_action = action(self, "Find a command…", "command", self.show_palette, "Ctrl+K")
        view.addAction(self._palette_action)
        jobs = self._dock.toggleViewAction()
        jobs.setText("Jobs")
        jobs.setIcon(icon("briefcase"))
        jobs.setShortcut(QKeySequence("Ctrl+J"))
        view.addAction(jobs)
        appearance = view.addMenu(icon("sun"), "Appearance")
        group = QActionGroup(self)
        for mode, text, icon_name in (
            ("system", "As the system", "monitor"), ("light", "Light", "sun"), ("dark", "Dark", "moon"),
        ):  # fmt: skip
            choice = action(self, text, icon_name, partial(self.workbench.settings.set, "appearance/theme", mode))
            choice.setCheckable(True)
            choice.setChecked(self.workbench.settings.get("appearance/theme") == mode)
            choice.setData(mode)
            group.addAction(choice)
            appearance.addAction(choice)
        self._themes = group
        view.addAction(action(self, "Full screen", "maximize", self._toggle_full_screen, "F11"))
        self.workbench.settings.changed.connect(self._on_setting)
        for _, title, _ in SCREENS:
            self.menus.menu(title).aboutToShow.connect(partial(self._ensure, title))
        help_menu = self.menus.menu("Help")
        help_menu.addAction(action(self, "Welcome page", "sparkles", self.show_welcome))
        help_menu.addAction(action(self, "Keyboard shortcuts", "keyboard", self._show_shortcuts, "F1"))
        help_menu.addAction(action(self, "Open the folder of logs", "folder-open", self._open_logs))
        help_menu.addSeparator()
        help_menu.addAction(action(self, "About Shardboard", "info", self._show_about))
        question = action(self, "Shortcuts", "keyboard", self._show_shortcuts, "?")
        self.addAction(question)
        self.rail.add_action(self._palette_action)
        self._palette_action.setIconText("Find")
        self.rail.add_action(self._preferences)

    def _ensure(self, title: str) -> None:
        """A screen's menu is filled by the screen, which may not be there yet."""
        if self.workbench.cluster.is_loaded:
            self.screen_of(next(key for key, known, _ in SCREENS if known == title))

    def _ensure_all(self) -> None:
        for _, title, _ in SCREENS:
            self._ensure(title)

    @Slot(str)
    def _on_setting(self, key: str) -> None:
        if key == "appearance/theme":
            mode = self.workbench.settings.get(key)
            self.workbench.theme.apply(mode)
            for choice in self._themes.actions():
                choice.setChecked(choice.data() == mode)

    def show_palette(self) -> None:
        """All commands, with what they are called."""
        self._ensure_all()
        if self._palette is None:
            self._palette = CommandPalette(self.workbench.theme, self)
        entries = [
            PaletteEntry(
                each.action.text().replace("&", ""), each.group, each.action.icon(),
                each.action.shortcut().toString(QKeySequence.SequenceFormat.NativeText), partial(self._run, each),
                enabled=each.action.isEnabled(), why_not=each.action.statusTip(),
            )
            for each in self.menus.commands()
        ]  # fmt: skip
        entries += [
            PaletteEntry(
                f"Show {view.name}", "Nodes", icon("server"), "",
                partial(self.workbench.navigate.emit, "nodes", view.id),
            )
            for view in self.workbench.cluster.nodes.values()
        ]  # fmt: skip
        entries += [
            PaletteEntry(
                f"Place {model.name}", "Board", icon("box"), "",
                partial(self.workbench.navigate.emit, "board", model.name),
            )
            for model in self.workbench.cluster.models
        ]  # fmt: skip
        self._palette.set_entries(entries)
        self._palette.open()

    def _run(self, command: object) -> None:
        from app.ui.window.menus import Command

        assert isinstance(command, Command)
        key = next((key for key, title, _ in SCREENS if title == command.group), None)
        if key is not None:
            self.show_screen(key)
        command.action.trigger()

    def _add_model(self) -> None:
        from app.ui.jobs.add_model_dialog import AddModelDialog

        AddModelDialog(self.workbench, self).open()

    def _cut(self) -> None:
        from app.ui.jobs.cut_dialog import CutDialog

        CutDialog(self.workbench, parent=self).open()

    def _show_preferences(self) -> None:
        self._open_preferences("")

    def _open_preferences(self, page: str) -> None:
        """`page` is the title of one, or empty for the first."""
        from app.ui.shell.preferences import PreferencesDialog

        dialog = PreferencesDialog(self.workbench, self)
        dialog.show_page(page)
        dialog.open()

    def _show_shortcuts(self) -> None:
        from app.ui.shell.shortcuts import ShortcutEntry, ShortcutsDialog

        self._ensure_all()
        entries = [
            ShortcutEntry(
                each.group, each.action.text().replace("&", ""),
                each.action.shortcut().toString(QKeySequence.SequenceFormat.NativeText),
            )
            for each in self.menus.commands()
            if not each.action.shortcut().isEmpty()
        ]  # fmt: skip
        ShortcutsDialog(entries, self).open()

    def _show_about(self) -> None:
        from app.ui.shell.about import AboutDialog

        AboutDialog(self).open()

    def _open_logs(self) -> None:
        if self.workbench.bridge.home is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.workbench.bridge.home.logs)))

    def _toggle_full_screen(self) -> None:
        self.setWindowState(self.windowState() ^ Qt.WindowState.WindowFullScreen)

    # --- docks and what is remembered ---

    def _make_dock(self) -> QDockWidget:
        from app.ui.jobs.jobs_dock import JobsDock

        dock = JobsDock(self.workbench, self)
        self.addDockWidget(Qt.DockWidgetArea.BottomDockWidgetArea, dock)
        dock.hide()
        self.status.show_jobs(dock)
        return dock

    def _restore(self) -> None:
        settings = self.workbench.settings
        geometry, layout = settings.bytes("geometry"), settings.bytes("layout")
        if not geometry.isEmpty():
            self.restoreGeometry(geometry)
        if not layout.isEmpty():
            self.restoreState(layout, LAYOUT_VERSION)

    def remember(self) -> None:
        """Write down what to find again at the next start."""
        settings = self.workbench.settings
        settings.save_bytes("geometry", QByteArray(self.saveGeometry()))
        settings.save_bytes("layout", QByteArray(self.saveState(LAYOUT_VERSION)))
        if self.workbench.cluster.is_loaded:
            settings.save_state("window", {"screen": self.current_key})
        for key, screen in self.screens.items():
            settings.save_state(key, screen.save())
        settings.flush()

    # --- closing ---

    def under_way(self) -> list[str]:
        """What closing would interrupt."""
        found = [text for screen in self.screens.values() for text in screen.busy_with()]
        if self._welcome is not None:
            found += self._welcome.busy_with()
        jobs = [job.view.title for job in self.workbench.jobs.busy()]
        return list(dict.fromkeys([*found, *jobs, *self.workbench.foreign.under_way()]))

    def closeEvent(self, event: QCloseEvent) -> None:
        if self._ready_to_close:
            event.accept()
            return
        event.ignore()
        if self._closing is not None:
            return
        if under_way := self.under_way():
            ask = AskDialog(under_way, self)
            ask.finished.connect(partial(self._on_answer, ask))
            ask.open()
        else:
            self.end()

    def _on_answer(self, ask: AskDialog, code: int) -> None:
        ask.deleteLater()
        if ask.answer is Answer.STOP or not self.under_way():
            if ask.answer is not Answer.STAY:
                self.end()
        elif ask.answer is Answer.WAIT:
            self._later.start()
            self.workbench.notices.toast("The window closes when the work is done.")

    @Slot()
    def _close_when_idle(self) -> None:
        if not self.under_way():
            self._later.stop()
            self.end()

    def end(self) -> None:
        """Close without asking: what is under way is cancelled in good order."""
        if self._closing is not None:
            return
        self.remember()
        dialog = ClosingDialog(self)
        self._closing = Closing(self.workbench, self)
        self._closing.step.connect(dialog.say)
        self._closing.finished.connect(dialog.accept)
        self._closing.finished.connect(self._on_ended)
        dialog.open()
        self._closing.begin()

    @Slot()
    def _on_ended(self) -> None:
        self._ready_to_close = True
        self.close()
        self.gone.emit()

    @Slot()
    def bring_to_front(self) -> None:
        """Another start of the program was asked for: this window is the one."""
        self.setWindowState(self.windowState() & ~Qt.WindowState.WindowMinimized)
        self.show()
        self.raise_()
        self.activateWindow()
