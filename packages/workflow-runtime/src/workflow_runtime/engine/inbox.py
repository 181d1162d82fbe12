"""The part of a run's inbox that its driver has read and not yet used, and who waits for it."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Iterable
from typing import TypeAlias

from ..store import InboxEntry
from .history import OperationKind
from .operations import Operation

__all__ = ["Inbox"]

_KIND_OF = {"signal": OperationKind.WAIT, "approval": OperationKind.APPROVAL}
_Key: TypeAlias = tuple[OperationKind, str]


class Inbox:
    """The entries of one run that are not used yet, and the waits that they may end.

    A driver asks it for the next match: entries in the order of their numbers, waits in the order of the calls.
    """

    def __init__(self) -> None:
        self.seen_seq: int = 0
        """All entries up to this number have been read."""
        self.cancel: InboxEntry | None = None
        """The request to cancel, if there is one; whoever takes it sets this to `None`."""
        self._retries: deque[InboxEntry] = deque()
        self._entries: dict[_Key, deque[InboxEntry]] = {}
        self._waiting: dict[_Key, deque[Operation]] = {}
        self._candidates: list[tuple[int, _Key]] = []
        """A heap: the first entry of each name that somebody may be waiting for. The price of a match must not
        depend on how many entries lie here that nobody wants."""

    @property
    def idle(self) -> bool:
        """True if there is nothing to take but a request to cancel."""
        return not (self._retries or self._candidates)

    def add(self, entries: Iterable[InboxEntry]) -> None:
        """Take in entries that were read from the store."""
        for entry in entries:
            self.seen_seq = max(self.seen_seq, entry.inbox_seq)
            if entry.kind == "cancel":
                self.cancel = entry
            elif entry.kind == "retry":
                self._retries.append(entry)
            else:
                key = (_KIND_OF[entry.kind], entry.name)
                self._entries.setdefault(key, deque()).append(entry)
                self._propose(key)

    def wait(self, operation: Operation) -> None:
        """Add an operation that waits for its name."""
        key = (operation.kind, operation.name)
        self._waiting.setdefault(key, deque()).append(operation)
        self._propose(key)

    def waiting(self) -> list[Operation]:
        """List the operations that still wait."""
        return [op for waits in self._waiting.values() for op in waits if op.pending]

    def take_retry(self) -> InboxEntry | None:
        """Take the first request to try now what waits for its next attempt."""
        return self._retries.popleft() if self._retries else None

    def take_match(self) -> tuple[InboxEntry, Operation] | None:
        """Take the first entry that somebody waits for and that came before the wait's deadline."""
        while self._candidates:
            inbox_seq, key = heapq.heappop(self._candidates)
            entries = self._entries[key]
            if not entries or entries[0].inbox_seq != inbox_seq:
                continue  # proposed twice, and already taken
            operation = self._first_waiting(key, entries[0])
            if operation is not None:
                entry = entries.popleft()
                self._propose(key)
                return entry, operation
        return None

    def _propose(self, key: _Key) -> None:
        if self._entries.get(key) and self._waiting.get(key):
            heapq.heappush(self._candidates, (self._entries[key][0].inbox_seq, key))

    def _first_waiting(self, key: _Key, entry: InboxEntry) -> Operation | None:
        waits = self._waiting[key]
        while waits and not waits[0].pending:
            waits.popleft()
        # A wait times out at its deadline, even if no worker was running then.
        in_time = (op for op in waits if op.pending and (op.until_ms is None or entry.received_at_ms <= op.until_ms))
        return next(in_time, None)
