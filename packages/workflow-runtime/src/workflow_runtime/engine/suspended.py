"""The signal that takes a waiting handler down: control flow, not an error."""

from __future__ import annotations

__all__ = ["Suspended"]


class Suspended(BaseException):  # not an error
    """Raised to unwind a handler whose run was paused, handed over or lost.

    A `BaseException`, so that a handler's `except Exception` lets it pass. Private: handlers never name it.
    """
