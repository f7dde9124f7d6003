"""How the window looks: colours by meaning, light and dark, as a palette over Fusion and one style sheet."""

from __future__ import annotations

from dataclasses import dataclass, fields

from PySide6.QtCore import QObject, Qt, Signal, Slot
from PySide6.QtGui import QColor, QFont, QFontDatabase, QPalette
from PySide6.QtWidgets import QApplication

from app.ui.icons import RESOURCES

SPACING = 8
"""The grid: margins and gaps are multiples of it (or its half)."""
RADIUS = 8


@dataclass(frozen=True)
class Colors:
    """Colours by what they mean. Pairs of meanings differ in lightness too, not in hue alone."""

    background: QColor
    """Behind everything: the window, the board."""
    surface: QColor
    """Panels, tables, inputs."""
    raised: QColor
    """Cards, menus, what lies on a surface."""
    sunken: QColor
    """Tracks of bars, code, free memory."""
    border: QColor
    text: QColor
    muted: QColor
    """Text that may be overlooked; still 4.5:1 on a surface."""
    accent: QColor
    on_accent: QColor
    accent_soft: QColor
    """The accent as a background behind text."""
    ok: QColor
    warning: QColor
    error: QColor
    error_soft: QColor
    warning_soft: QColor
    ok_soft: QColor
    kv: QColor
    """Memory set aside for keys and values."""
    series: tuple[QColor, ...]
    """Stages of a pipeline and lines of a graph, in this order; then from the first again."""

    def of(self, index: int) -> QColor:
        """The colour of stage or line number `index`."""
        return self.series[index % len(self.series)]


def _colors(series: str, **named: str) -> Colors:
    values = {field.name: QColor(named[field.name]) for field in fields(Colors) if field.name != "series"}
    return Colors(**values, series=tuple(QColor(each) for each in series.split()))


LIGHT = _colors(
    "#4353D8 #0B7A6E #B4540A #8B3FC0 #1673B8 #A82255 #5B7A12 #6B5B95",
    background="#F4F5F8", surface="#FFFFFF", raised="#FFFFFF", sunken="#E9ECF1", border="#D9DEE7", text="#1A2130",
    muted="#5A6474", accent="#4353D8", on_accent="#FFFFFF", accent_soft="#E6E9FC", ok="#117342", warning="#9A6200",
    error="#C0262D", error_soft="#FCE8E8", warning_soft="#FCF1DC", ok_soft="#E2F4EA", kv="#98A1B3",
)  # fmt: skip
DARK = _colors(
    "#8C9BFF #45CDBB #F2A25C #C997F4 #6BBDF2 #F284A8 #B3D465 #B9A8E8",
    background="#12151B", surface="#191D25", raised="#212631", sunken="#2B313D", border="#343B49", text="#E9EDF4",
    muted="#9DA7B8", accent="#8C9BFF", on_accent="#11141C", accent_soft="#2A3157", ok="#5FD39A", warning="#F1BE5C",
    error="#FF8087", error_soft="#43242A", warning_soft="#3D3320", ok_soft="#1F3A2E", kv="#6E788B",
)  # fmt: skip


class ThemeKeeper(QObject):
    """Applies a theme to the application and follows the system while asked to."""

    changed = Signal()
    """Colours are others now: what paints by itself must paint again."""

    def __init__(self, application: QApplication) -> None:
        super().__init__(application)
        self._application = application
        self._mode = "system"
        self.colors = LIGHT
        application.setStyle("Fusion")
        _load_fonts(application)
        application.styleHints().colorSchemeChanged.connect(self._on_system_changed)

    @property
    def mode(self) -> str:
        """system, light or dark"""
        return self._mode

    @property
    def is_dark(self) -> bool:
        return self.colors is DARK

    def apply(self, mode: str) -> None:
        """Switch to system, light or dark."""
        self._mode = mode
        dark = mode == "dark" or (mode == "system" and self._system_is_dark())
        self.colors = DARK if dark else LIGHT
        self._application.setPalette(palette_of(self.colors))
        self._application.setStyleSheet(style_sheet(self.colors))
        self.changed.emit()

    def _system_is_dark(self) -> bool:
        return self._application.styleHints().colorScheme() is Qt.ColorScheme.Dark

    @Slot()
    def _on_system_changed(self) -> None:
        if self._mode == "system" and self._system_is_dark() != self.is_dark:
            self.apply("system")


def monospace(size: float | None = None) -> QFont:
    """The fixed-width font, for code, ids and log lines."""
    font = QFont("JetBrains Mono")
    font.setStyleHint(QFont.StyleHint.Monospace)
    font.setPointSizeF(size or QApplication.font().pointSizeF() * 0.95)
    return font


def _load_fonts(application: QApplication) -> None:
    for file in sorted((RESOURCES / "fonts").glob("*.ttf")):
        QFontDatabase.addApplicationFont(str(file))
    font = QFont("Inter", 10)
    font.setHintingPreference(QFont.HintingPreference.PreferNoHinting)
    application.setFont(font)


def palette_of(colors: Colors) -> QPalette:
    """The colours as Qt's own widgets use them."""
    palette = QPalette()
    role = QPalette.ColorRole
    for which, color in (
        (role.Window, colors.background), (role.WindowText, colors.text), (role.Base, colors.surface),
        (role.AlternateBase, colors.background), (role.Text, colors.text), (role.Button, colors.raised),
        (role.ButtonText, colors.text), (role.BrightText, colors.error), (role.Highlight, colors.accent),
        (role.HighlightedText, colors.on_accent), (role.ToolTipBase, colors.raised), (role.ToolTipText, colors.text),
        (role.PlaceholderText, colors.muted), (role.Link, colors.accent), (role.LinkVisited, colors.accent),
        (role.Light, colors.raised), (role.Midlight, colors.sunken), (role.Mid, colors.border),
        (role.Dark, colors.border), (role.Shadow, colors.border), (role.Accent, colors.accent),
    ):  # fmt: skip
        palette.setColor(which, color)
    faded = QColor(colors.muted)
    faded.setAlpha(150)
    for which in (role.WindowText, role.Text, role.ButtonText, role.PlaceholderText):
        palette.setColor(QPalette.ColorGroup.Disabled, which, faded)
    palette.setColor(QPalette.ColorGroup.Disabled, role.Highlight, colors.border)
    return palette


def style_sheet(colors: Colors) -> str:
    """What the palette cannot say. Widgets take part by the dynamic property `role`:

    buttons: "primary", "danger", "quiet" (no frame), "link"; labels: "title", "heading", "muted", "error",
    "warning", "ok"; frames: "card" (raised, rounded, a border), "panel" (a surface), "sunken".
    """
    c = {field.name: getattr(colors, field.name) for field in fields(colors) if field.name != "series"}
    name = {key: value.name() for key, value in c.items()}
    # A style sheet takes its pictures from files only: these are in a grey that is seen on light and dark.
    name["arrows"] = (RESOURCES / "theme").as_posix()
    name["checks"] = "dark" if colors is DARK else "light"
    return """
    QToolTip {{ background: {raised}; color: {text}; border: 1px solid {border}; padding: 4px 6px; }}
    QPushButton {{ background: {raised}; border: 1px solid {border}; border-radius: 6px; padding: 5px 12px; min-height: 18px; }}
    QPushButton:hover {{ border-color: {muted}; }}
    QPushButton:pressed {{ background: {sunken}; }}
    QPushButton:focus {{ border: 1px solid {accent}; }}
    QPushButton:disabled {{ color: {muted}; background: {background}; }}
    QPushButton[role="primary"] {{ background: {accent}; color: {on_accent}; border-color: {accent}; font-weight: 600; }}
    QPushButton[role="primary"]:focus {{ border-color: {text}; }}
    QPushButton[role="primary"]:disabled {{ background: {sunken}; color: {muted}; border-color: {border}; }}
    QPushButton[role="danger"] {{ color: {error}; }}
    QPushButton[role="quiet"], QToolButton {{ background: transparent; border: 1px solid transparent; border-radius: 6px; padding: 4px 6px; }}
    QPushButton[role="quiet"]:hover, QToolButton:hover {{ background: {sunken}; }}
    QToolButton:checked {{ background: {accent_soft}; }}
    QToolButton:focus, QPushButton[role="quiet"]:focus {{ border-color: {accent}; }}
    QPushButton[role="link"] {{ background: transparent; border: none; color: {accent}; padding: 0; text-align: left; }}
    QLineEdit, QPlainTextEdit, QTextEdit, QSpinBox, QDoubleSpinBox, QDateTimeEdit, QComboBox {{ background: {surface}; border: 1px solid {border}; border-radius: 6px; padding: 4px 8px; selection-background-color: {accent}; selection-color: {on_accent}; }}
    QLineEdit:focus, QPlainTextEdit:focus, QTextEdit:focus, QSpinBox:focus, QDoubleSpinBox:focus, QDateTimeEdit:focus, QComboBox:focus {{ border-color: {accent}; }}
    QComboBox::drop-down, QDateTimeEdit::drop-down {{ border: none; width: 20px; }}
    QCheckBox::indicator, QTableView::indicator {{ width: 14px; height: 14px; border: 1px solid {muted}; border-radius: 4px; background: {surface}; }}
    QCheckBox::indicator:checked, QTableView::indicator:checked {{ background: {accent}; border-color: {accent}; image: url("{arrows}/check-{checks}.svg"); }}
    QCheckBox::indicator:focus, QRadioButton::indicator:focus {{ border-color: {accent}; }}
    QRadioButton::indicator {{ width: 14px; height: 14px; border: 1px solid {muted}; border-radius: 8px; background: {surface}; }}
    QRadioButton::indicator:checked {{ border: 5px solid {accent}; width: 6px; height: 6px; }}
    QRadioButton::indicator:disabled {{ border-color: {border}; }}
    QComboBox::down-arrow, QDateTimeEdit::down-arrow {{ image: url("{arrows}/down.svg"); width: 12px; height: 12px; }}
    QAbstractSpinBox::up-button, QAbstractSpinBox::down-button {{ subcontrol-origin: padding; width: 18px; border: none; background: transparent; }}
    QAbstractSpinBox::up-button {{ subcontrol-position: top right; }}
    QAbstractSpinBox::down-button {{ subcontrol-position: bottom right; }}
    QAbstractSpinBox::up-arrow {{ image: url("{arrows}/up.svg"); width: 12px; height: 12px; }}
    QAbstractSpinBox::down-arrow {{ image: url("{arrows}/down.svg"); width: 12px; height: 12px; }}
    QComboBox QAbstractItemView {{ background: {raised}; border: 1px solid {border}; outline: 0; }}
    QLabel[role="title"] {{ font-size: 15pt; font-weight: 600; }}
    QLabel[role="heading"] {{ font-weight: 600; }}
    QLabel[role="muted"] {{ color: {muted}; }}
    QLabel[role="error"] {{ color: {error}; }}
    QLabel[role="warning"] {{ color: {warning}; }}
    QLabel[role="ok"] {{ color: {ok}; }}
    QFrame[role="card"] {{ background: {raised}; border: 1px solid {border}; border-radius: 8px; }}
    QFrame[role="panel"] {{ background: {surface}; border: none; }}
    QFrame[role="sunken"] {{ background: {sunken}; border: none; border-radius: 6px; }}
    QAbstractItemView {{ background: {surface}; border: none; outline: 0; selection-background-color: {accent_soft}; selection-color: {text}; }}
    QTableView {{ gridline-color: {border}; }}
    QTableView::item, QTreeView::item {{ padding: 3px 6px; border: none; }}
    QTableView::item:selected, QListView::item:selected, QTreeView::item:selected {{ background: {accent_soft}; color: {text}; }}
    QHeaderView {{ background: {surface}; }}
    QHeaderView::section {{ background: {surface}; color: {muted}; border: none; border-bottom: 1px solid {border}; padding: 6px 8px; font-weight: 500; }}
    QTableCornerButton::section {{ background: {surface}; border: none; }}
    QSplitter::handle {{ background: {border}; }}
    QSplitter::handle:horizontal {{ width: 1px; }}
    QSplitter::handle:vertical {{ height: 1px; }}
    QMenu {{ background: {raised}; border: 1px solid {border}; padding: 4px; }}
    QMenu::item {{ padding: 5px 22px 5px 10px; border-radius: 4px; }}
    QMenu::item:selected {{ background: {accent_soft}; color: {text}; }}
    QMenu::item:disabled {{ color: {muted}; }}
    QMenu::separator {{ height: 1px; background: {border}; margin: 4px 6px; }}
    QMenuBar {{ background: {surface}; border-bottom: 1px solid {border}; }}
    QMenuBar::item {{ padding: 5px 10px; background: transparent; border-radius: 4px; }}
    QMenuBar::item:selected {{ background: {sunken}; }}
    QStatusBar {{ background: {surface}; border-top: 1px solid {border}; color: {muted}; }}
    QStatusBar::item {{ border: none; }}
    QDockWidget {{ font-weight: 600; }}
    QDockWidget::title {{ background: {surface}; border-top: 1px solid {border}; padding: 6px 10px; }}
    QProgressBar {{ background: {sunken}; border: none; border-radius: 3px; max-height: 6px; min-height: 6px; text-align: center; }}
    QProgressBar::chunk {{ background: {accent}; border-radius: 3px; }}
    QScrollBar:vertical {{ background: transparent; width: 10px; margin: 0; }}
    QScrollBar:horizontal {{ background: transparent; height: 10px; margin: 0; }}
    QScrollBar::handle {{ background: {border}; border-radius: 4px; min-height: 28px; min-width: 28px; margin: 1px; }}
    QScrollBar::handle:hover {{ background: {muted}; }}
    QScrollBar::add-line, QScrollBar::sub-line, QScrollBar::add-page, QScrollBar::sub-page {{ background: transparent; border: none; width: 0; height: 0; }}
    QTabBar::tab {{ background: transparent; color: {muted}; padding: 7px 12px; border-bottom: 2px solid transparent; }}
    QTabBar::tab:selected {{ color: {text}; border-bottom-color: {accent}; }}
    QTabWidget::pane {{ border: none; border-top: 1px solid {border}; }}
    QGroupBox {{ border: 1px solid {border}; border-radius: 8px; margin-top: 10px; padding-top: 8px; font-weight: 600; }}
    QGroupBox::title {{ subcontrol-origin: margin; left: 10px; padding: 0 4px; }}
    """.format(**name)  # noqa: E501 - a style sheet reads best with a rule on a line
