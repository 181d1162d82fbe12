"""The inbox: everything that reaches a run from outside, numbered, and known by its id."""

from __future__ import annotations

import json
from collections.abc import Sequence
from sqlite3 import Connection, Row
from typing import Literal

from workflow_runtime.store import (
    TERMINAL_STATUSES,
    AlreadyDecided,
    AlreadyFinished,
    Buffered,
    DeliverApprovalResult,
    Delivered,
    DeliverRetryResult,
    DeliverSignalResult,
    Duplicate,
    InboxEntry,
    JsonText,
    NotFound,
    NotWaiting,
    RunStatus,
    SignalToDeliver,
    approval_payload,
)

from .heads import find_head, queue_run, set_head
from .rows import entry, select_inbox, within

Delivery = Delivered | Buffered | NotWaiting | AlreadyFinished | NotFound


def deliver_signal(
    db: Connection,
    *,
    run_id: str,
    signal_id: str,
    name: str,
    payload: JsonText | None,
    now_ms: int,
    only_if_waiting: bool = False,
) -> DeliverSignalResult:
    known = _find_entry(db, run_id, "signal", signal_id)
    if known is not None:
        return Duplicate(inbox_seq=known["inbox_seq"])
    return _deliver(db, run_id, "signal", name, signal_id, payload, now_ms, only_if_waiting)


def deliver_signals(
    db: Connection, *, signals: Sequence[SignalToDeliver], now_ms: int
) -> tuple[DeliverSignalResult, ...]:
    return tuple(
        deliver_signal(
            db,
            run_id=signal.run_id,
            signal_id=signal.signal_id,
            name=signal.name,
            payload=signal.payload,
            now_ms=now_ms,
        )
        for signal in signals
    )


def deliver_approval(
    db: Connection,
    *,
    run_id: str,
    approval_id: str,
    approved: bool,
    now_ms: int,
    decided_by: str | None = None,
    comment: str | None = None,
    only_if_waiting: bool = False,
) -> DeliverApprovalResult:
    known = _find_entry(db, run_id, "approval", approval_id)
    if known is not None:
        return AlreadyDecided(approved=json.loads(known["payload"])["approved"])
    payload = approval_payload(approved=approved, decided_by=decided_by, comment=comment)
    return _deliver(db, run_id, "approval", approval_id, approval_id, payload, now_ms, only_if_waiting)


def deliver_retry(db: Connection, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
    known = _find_entry(db, run_id, "retry", retry_id)
    if known is not None:
        return Duplicate(inbox_seq=known["inbox_seq"])
    answer = _deliver(db, run_id, "retry", "retry", retry_id, None, now_ms, only_if_waiting=False)
    assert not isinstance(answer, NotWaiting)
    return answer


def read_inbox(
    db: Connection, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = 1_000_000
) -> tuple[InboxEntry, ...]:
    rows = select_inbox(db, run_id, after_seq=after_seq, limit=limit)
    return tuple(entry(row) for row in within(rows, max_bytes))


def put_into_inbox(
    db: Connection, head: Row, *, kind: str, name: str, delivery_id: str, payload: JsonText | None, now_ms: int
) -> int:
    """Insert an entry with the next number, and return that."""
    inbox_seq: int = head["inbox_seq"] + 1
    db.execute(
        """
        INSERT INTO workflow_inbox (run_id, inbox_seq, kind, name, delivery_id, payload, received_at_ms)
        VALUES (?, ?, ?, ?, ?, ?, ?)
        """,
        (head["run_id"], inbox_seq, kind, name, delivery_id, payload, now_ms),
    )
    set_head(db, head["run_id"], inbox_seq=inbox_seq, updated_at_ms=now_ms)
    return inbox_seq


def _find_entry(db: Connection, run_id: str, kind: str, delivery_id: str) -> Row | None:
    row: Row | None = db.execute(
        "SELECT inbox_seq, payload FROM workflow_inbox WHERE run_id = ? AND kind = ? AND delivery_id = ?",
        (run_id, kind, delivery_id),
    ).fetchone()
    return row


def _deliver(
    db: Connection,
    run_id: str,
    kind: Literal["signal", "approval", "retry"],
    name: str,
    delivery_id: str,
    payload: JsonText | None,
    now_ms: int,
    only_if_waiting: bool,
) -> Delivery:
    head = find_head(db, run_id)
    if head is None:
        return NotFound()
    status = RunStatus(head["status"])
    if status in TERMINAL_STATUSES - {RunStatus.DEAD}:
        return AlreadyFinished(status=status)
    wakes = status is RunStatus.PAUSED and (kind == "retry" or _awaits(db, run_id, kind, name))
    if only_if_waiting and not wakes:
        return NotWaiting(status=status)
    inbox_seq = put_into_inbox(db, head, kind=kind, name=name, delivery_id=delivery_id, payload=payload, now_ms=now_ms)
    if not wakes:
        return Buffered(inbox_seq=inbox_seq)
    queue_run(db, run_id, now_ms=now_ms)
    return Delivered(inbox_seq=inbox_seq)


def _awaits(db: Connection, run_id: str, kind: str, name: str) -> bool:
    awaited = db.execute("SELECT awaited FROM workflow_run_data WHERE run_id = ?", (run_id,)).fetchone()[0]
    return any(thing[:2] == [kind, name] for thing in json.loads(awaited))
