"""Connections in a forked child: they stay its parent's, also when the child drops them.

A connection of asyncpg's that is thrown away says good-bye to the server, and takes itself off the event loop. In a
child both would be done to the parent's.
"""

from __future__ import annotations

import os
from typing import Any
from weakref import WeakSet

__all__ = ["Inherited"]


class Inherited:
    """A pool whose connections are marked as closed when the process turns out to be a forked child.

    Args:
        pool: An `asyncpg.Pool`.
    """

    def __init__(self, pool: Any) -> None:
        self._pool = pool
        _known.add(self)

    def leave_to_parent(self) -> None:
        """Have nothing done with the connections any more, in this process."""
        for holder in getattr(self._pool, "_holders", ()):  # no public attribute has them
            connection = getattr(holder, "_con", None)
            if connection is not None:
                connection._aborted = True  # noqa: SLF001  # what `is_closed()` goes by


_known: WeakSet[Inherited] = WeakSet()


def _leave_all_to_parent() -> None:
    for inherited in list(_known):
        inherited.leave_to_parent()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_all_to_parent)
