"""The main window: navigation, menus, status bar, and how it closes."""
