"""Lists of rows that come with a run as one list for each of their columns.

Payloads are read as text, whatever codecs for json the pool's owner has set.
"""

from __future__ import annotations

from collections.abc import Sequence

from workflow_store_sql import RunRows

from .lent_connection import Row

__all__ = ["ARRAYS", "run_rows"]

_EVENTS = {
    "event_index": "event_indexes",
    "kind": "event_kinds",
    "step_id": "event_step_ids",
    "created_at": "event_times",
    "payload": "event_payloads",
}
_INBOX = {
    "inbox_seq": "entry_numbers",
    "kind": "entry_kinds",
    "name": "entry_names",
    "delivery_id": "entry_delivery_ids",
    "received_at": "entry_times",
    "payload": "entry_payloads",
}
_TIMERS = {"timer_id": "timer_ids", "fire_at": "timer_times"}
ARRAYS = (*_EVENTS.values(), *_INBOX.values(), *_TIMERS.values())
"""The columns that `run_rows` reads beside those of the run."""


def run_rows(row: Row) -> RunRows:
    """Return a run's row with the rows that its arrays hold."""
    return RunRows(row, _unfold(row, _EVENTS), _unfold(row, _INBOX), _unfold(row, _TIMERS))


def _unfold(row: Row, arrays: dict[str, str]) -> Sequence[Row]:
    """Make rows of a row's lists, given the list of each column; no list is no row."""
    values = [row[name] for name in arrays.values()]
    if values[0] is None:
        return ()
    # Numbers come as one text.
    values = [list(map(int, value.split(","))) if isinstance(value, str) else value for value in values]
    return [dict(zip(arrays, items, strict=True)) for items in zip(*values, strict=True)]
