"""The command line: one file for each group of commands. All of them drive the controller; none does its work."""

from app.cli.root import app, main

__all__ = ["app", "main"]
