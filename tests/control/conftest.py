"""The tiny model of the whole-system tests, for the door's own."""

from tests.e2e.conftest import tiny

__all__ = ["tiny"]
