"""Between the replies of the server and the values of the contract."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

from workflow_runtime.store import (
    Awaited,
    ClaimedRun,
    CorruptRecordError,
    Event,
    InboxEntry,
    JsonText,
    Lease,
    NewEvent,
    RunRecord,
    RunStatus,
    RunSummary,
    Schedule,
    Timer,
    decode_json,
)

from .server import Reply

__all__ = [
    "SUMMARY_COLUMNS",
    "awaited_text",
    "encode_entry",
    "encode_event",
    "read_claim",
    "read_entries",
    "read_events",
    "read_record",
    "read_row",
    "read_schedule",
    "read_summary",
    "read_timers",
]

Row: TypeAlias = Mapping[str, str | None]

SUMMARY_COLUMNS = (
    "run_id",
    "workflow_id",
    "workflow_version",
    "status",
    "queue",
    "priority",
    "created_at_ms",
    "updated_at_ms",
    "finished_at_ms",
    "due_at_ms",
    "next_index",
    "inbox_seq",
    "cancel_requested",
    "crashes",
    "lease_owner",
    "lease_expires_at_ms",
    "first_awaited",
    "awaited_count",
)


def encode_event(event: NewEvent, now_ms: int) -> tuple[int, str]:
    """Return the bytes of an event's payload, and the event as JSON."""
    return len(event.payload or ""), json.dumps([event.kind, event.step_id, event.payload, now_ms])


def encode_entry(kind: str, name: str, delivery_id: str, payload: JsonText | None, now_ms: int) -> tuple[int, str]:
    """Return the bytes of an inbox entry's payload, and the entry as JSON."""
    return len(payload or ""), json.dumps([kind, name, delivery_id, payload, now_ms])


def awaited_text(awaited: Sequence[Awaited]) -> str:
    """Return an awaited list as JSON."""
    return json.dumps([{"kind": a.kind, "name": a.name, "step_id": a.step_id, "until_ms": a.until_ms} for a in awaited])


def read_row(reply: Reply) -> Row:
    """Return a hash, which comes as names and values in turn."""
    return dict(zip(reply[::2], reply[1::2], strict=True))


def read_summary(row: Row) -> RunSummary:
    """Return a run without payloads."""
    with _reading("run", row.get("run_id")):
        return RunSummary(**_summary_fields(row))


def read_record(row: Row) -> RunRecord:
    """Return a run with its payloads."""
    with _reading("run", row.get("run_id")):
        run_input = JsonText(_text(row, "input"))
        decode_json(run_input)
        return RunRecord(
            **_summary_fields(row),
            input=run_input,
            output=_payload(row, "output"),
            error=_payload(row, "error"),
            reason=row.get("reason"),
            awaited=_awaited(row, "awaited"),
            schedule_id=row.get("schedule_id"),
            scheduled_at_ms=_number_or_none(row, "scheduled_at_ms"),
            forked_from_run_id=row.get("forked_from_run_id"),
            forked_from_index=_number_or_none(row, "forked_from_index"),
        )


def _summary_fields(row: Row) -> dict[str, Any]:
    texts = ("run_id", "workflow_id", "workflow_version", "queue")
    numbers = ("priority", "created_at_ms", "updated_at_ms", "next_index", "inbox_seq", "crashes")
    perhaps = ("finished_at_ms", "due_at_ms", "lease_expires_at_ms")
    return {
        **{name: _text(row, name) for name in texts},
        **{name: _number(row, name) for name in numbers},
        **{name: _number_or_none(row, name) for name in perhaps},
        "status": RunStatus(_text(row, "status")),
        "cancel_requested": row["cancel_requested"] == "1",
        "lease_owner": row.get("lease_owner"),
        "first_awaited": _awaited(row, "first_awaited"),
        "awaited_count": _number_or_none(row, "awaited_count") or 0,
    }


def read_claim(reply: Reply) -> ClaimedRun:
    """Return a claimed run with all that came along."""
    row = read_row(reply[0])
    run = read_record(row)
    with _reading("run", run.run_id):
        lease = Lease(
            owner=_text(row, "lease_owner"),
            token=_text(row, "lease_token"),
            number=_number(row, "lease_number"),
            expires_at_ms=_number(row, "lease_expires_at_ms"),
        )
    return ClaimedRun(
        run=run,
        lease=lease,
        history=read_events(reply[1], run.run_id),
        inbox=read_entries(reply[2], run.run_id),
        due_timers=read_timers(reply[3]),
    )


def read_events(texts: Sequence[str], run_id: str) -> tuple[Event, ...]:
    """Return events of a run's log."""
    with _reading("log", run_id):
        return tuple(_event(text) for text in texts)


def _event(text: str) -> Event:
    _, index, document = text.split(" ", 2)
    kind, step_id, payload, created_at_ms = json.loads(document)
    return Event(index=int(index), kind=kind, step_id=step_id, payload=payload, created_at_ms=created_at_ms)


def read_entries(texts: Sequence[str], run_id: str) -> tuple[InboxEntry, ...]:
    """Return entries of a run's inbox."""
    with _reading("inbox", run_id):
        return tuple(_entry(text) for text in texts)


def _entry(text: str) -> InboxEntry:
    _, seq, document = text.split(" ", 2)
    kind, name, delivery_id, payload, received_at_ms = json.loads(document)
    return InboxEntry(
        inbox_seq=int(seq),
        kind=kind,
        name=name,
        delivery_id=delivery_id,
        payload=payload,
        received_at_ms=received_at_ms,
    )


def read_timers(reply: Sequence[str]) -> tuple[Timer, ...]:
    """Return timers, which come as ids and times in turn."""
    return tuple(
        Timer(timer_id=timer_id, fire_at_ms=int(float(time)))
        for timer_id, time in zip(reply[::2], reply[1::2], strict=True)
    )


def read_schedule(row: Row) -> Schedule:
    """Return a schedule."""
    texts = ("schedule_id", "workflow_id", "workflow_version", "overlap_policy", "queue")
    numbers = ("priority", "revision", "created_at_ms", "updated_at_ms")
    perhaps = ("next_fire_at_ms", "last_fire_at_ms", "buffered_fire_at_ms")
    with _reading("schedule", row.get("schedule_id")):
        fields: dict[str, Any] = {
            **{name: _text(row, name) for name in texts},
            **{name: _number(row, name) for name in numbers},
            **{name: _number_or_none(row, name) for name in perhaps},
        }
        return Schedule(
            **fields,
            spec=JsonText(_text(row, "spec")),
            input=JsonText(_text(row, "input")),
            enabled=row["enabled"] == "1",
            previous_run_id=row.get("previous_run_id"),
        )


@contextmanager
def _reading(kind: str, key: str | None) -> Iterator[None]:
    """Turn what goes wrong with a stored record into an error that names it."""
    try:
        yield
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptRecordError(kind, key or "?", f"{type(error).__name__}: {error}") from error


def _text(row: Row, name: str) -> str:
    text = row[name]
    if text is None:
        raise KeyError(name)
    return text


def _number(row: Row, name: str) -> int:
    return int(_text(row, name))


def _number_or_none(row: Row, name: str) -> int | None:
    text = row.get(name)
    return None if text is None else int(text)


def _payload(row: Row, name: str) -> JsonText | None:
    text = row.get(name)
    return None if text is None else JsonText(text)


def _awaited(row: Row, name: str) -> tuple[Awaited, ...]:
    return tuple(Awaited(**item) for item in json.loads(row.get(name) or "[]"))
