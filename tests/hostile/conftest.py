"""The tiny runs of the end-to-end tests."""

from tests.end_to_end.conftest import demo, finished, here, tiny

__all__ = ["demo", "finished", "here", "tiny"]
