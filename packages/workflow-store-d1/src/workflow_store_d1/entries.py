"""The entry that a batch has added to an inbox, found from the head as it was before."""

from __future__ import annotations

from workflow_store_sql import ENDED, NOT_CANCELLABLE, RowReader

from .database import Row

__all__ = ["cancelled", "delivered"]


def delivered(read: RowReader, run_id: str, before: Row, *, only_if_waiting: bool) -> Row:
    """Return the head with the number of the new entry; `None` where none was written."""
    written = (
        before["known_seq"] is None
        and read.status(before["status"], run_id) not in ENDED
        and (before["awaited"] or not only_if_waiting)
    )
    return _with_entry(before, written=written)


def cancelled(read: RowReader, run_id: str, before: Row) -> Row:
    """Return the head with the number of the request to cancel; `None` where none was written."""
    written = read.status(before["status"], run_id) not in NOT_CANCELLABLE and before["known_seq"] is None
    return _with_entry(before, written=written)


def _with_entry(before: Row, *, written: bool) -> Row:
    return {**before, "inbox_seq": before["inbox_seq"] + 1 if written else None}
