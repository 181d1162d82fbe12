"""The table of calls that change one schedule: every mutating verb, with the states in which it changes something."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import WorkflowExecutionStore

from ..samples import LEASE_MS, MANY
from .calls import Call
from .run_calls import ABSENT

__all__ = ["SCHEDULE_CALLS", "SCHEDULE_STATES", "ScheduleSubject"]

SCHEDULE_STATES = (ABSENT, "idle", "due", "requested", "claimed", "expired", "waiting", "overlapping")
"""An id without a schedule; a schedule without a tick that is due; with one; with a requested one; with one that is
claimed; whose claim has expired; that was put back until the previous run ends; that is claimed while that run is live.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSubject:
    """A schedule that calls are about. It has a workflow of its own, so claims of ticks find no other."""

    id: str
    fire_at_ms: int
    token: str
    now_ms: int

    @property
    def previous_id(self) -> str:
        """The id of its previous run, if there is one."""
        return f"{self.id}:previous"

    def run_id(self, caller: int) -> str:
        """Return the id of the run that a caller starts."""
        return f"{self.id}:run-{caller}"

    def definition(self, text: str) -> dict[str, Any]:
        """Return what a change of the definition says."""
        return {
            "schedule_id": self.id,
            "workflow_id": self.id,
            "workflow_version": "1",
            "spec": JsonText(f'"{text}"'),
            "input": JsonText("null"),
            "overlap_policy": "buffer-one",
            "next_fire_at_ms": self.fire_at_ms,
            "now_ms": self.now_ms,
        }

    def claim(self, caller: int) -> dict[str, Any]:
        """Return what a claim of ticks says."""
        worker = {"owner": f"worker-{caller}", "lease_ms": LEASE_MS, "now_ms": self.now_ms}
        return worker | {"limit": MANY, "workflow_ids": [self.id]}

    def mark(self, caller: int) -> dict[str, Any]:
        """Return what the worker says that has claimed the tick."""
        return {
            "schedule_id": self.id,
            "fire_at_ms": self.fire_at_ms,
            "lease_token": self.token,
            "operation_id": f"{self.id}:{caller}",
            "expected_revision": 1,
            "next_fire_at_ms": self.fire_at_ms + LEASE_MS,
            "now_ms": self.now_ms,
        }


_Act: TypeAlias = Callable[[WorkflowExecutionStore, ScheduleSubject, int], Coroutine[Any, Any, Any]]
_NO_TICKS = r"BucketClaims\(buckets=\(\), .*\)"
_PRESENT = tuple(state for state in SCHEDULE_STATES if state != ABSENT)
_CLAIMED = ("claimed", "expired")
_PREVIOUS = ("waiting", "overlapping")


def _call(name: str, clauses: str, act: _Act, next_states: Mapping[str, str], **facts: Any) -> Call[ScheduleSubject]:
    """Return the call of a verb; its name is the verb, then what is special about the arguments."""
    verb = name.partition("-")[0]
    return Call(name=name, verb=verb, clauses=tuple(clauses.split()), act=act, next_states=next_states, **facts)


SCHEDULE_CALLS: tuple[Call[ScheduleSubject], ...] = (
    _call(
        "delete_schedule",
        "SCHEDULE-7",
        lambda store, schedule, n: store.delete_schedule(schedule_id=schedule.id),
        dict.fromkeys(_PRESENT, ABSENT),
    ),
    _call(
        "upsert_schedule",
        "SCHEDULE-2 SCHEDULE-1",
        lambda store, schedule, n: store.upsert_schedule(**schedule.definition(f"of {n}")),
        dict.fromkeys(SCHEDULE_STATES, "due") | {"waiting": "waiting"},
        takes=True,
    ),
    _call(
        "upsert_schedule-alike",
        "SCHEDULE-2 SCHEDULE-1",
        lambda store, schedule, n: store.upsert_schedule(**schedule.definition("of all")),
        dict.fromkeys(SCHEDULE_STATES, "due") | {"waiting": "waiting"},
        takes=True,
    ),
    _call(
        "upsert_schedule-expected",
        "SCHEDULE-4 SCHEDULE-2",
        lambda store, schedule, n: store.upsert_schedule(**schedule.definition(f"of {n}"), expected_revision=1),
        dict.fromkeys(_PRESENT, "due") | {"waiting": "waiting"},
        takes=True,
        fenced=True,
    ),
    _call(
        "upsert_schedule-disabled",
        "SCHEDULE-3 SCHEDULE-2",
        lambda store, schedule, n: store.upsert_schedule(**schedule.definition("first"), enabled=False),
        dict.fromkeys(SCHEDULE_STATES, "idle"),
        takes=True,
    ),
    _call(
        "request_schedule_buckets",
        "SCHEDULE-8",
        lambda store, schedule, n: store.request_schedule_buckets(
            schedule_id=schedule.id, fire_times_ms=[schedule.fire_at_ms, schedule.now_ms + n], now_ms=schedule.now_ms
        ),
        {state: state for state in _PRESENT} | {"idle": "requested"},
    ),
    _call(
        "request_schedule_buckets-in-turn",
        "SCHEDULE-18 SCHEDULE-8",
        lambda store, schedule, n: store.request_schedule_buckets(
            schedule_id=schedule.id,
            fire_times_ms=[schedule.now_ms],
            now_ms=schedule.now_ms,
            overlap="buffer-all",
        ),
        {state: state for state in _PRESENT} | {"idle": "requested"},
    ),
    _call(
        "claim_due_schedule_buckets",
        "SCHEDULE-9",
        lambda store, schedule, n: store.claim_due_schedule_buckets(**schedule.claim(n)),
        dict.fromkeys(("due", "requested", "expired"), "claimed"),
        takes=True,
        nothing=_NO_TICKS,
    ),
    _call(
        "mark_schedule_bucket_started",
        "SCHEDULE-16 SCHEDULE-13",
        lambda store, schedule, n: store.mark_schedule_bucket_started(
            **schedule.mark(n), action="start", run_id=schedule.run_id(n)
        ),
        dict.fromkeys(_CLAIMED, "overlapping"),
        takes=True,
        fenced=True,
    ),
    _call(
        "mark_schedule_bucket_started-skip",
        "SCHEDULE-16 SCHEDULE-15",
        lambda store, schedule, n: store.mark_schedule_bucket_started(**schedule.mark(n), action="skip"),
        dict.fromkeys((*_CLAIMED, "overlapping"), "idle"),
        takes=True,
        fenced=True,
    ),
    _call(
        "mark_schedule_bucket_started-buffer",
        "SCHEDULE-16 SCHEDULE-15",
        lambda store, schedule, n: store.mark_schedule_bucket_started(**schedule.mark(n), action="buffer"),
        dict.fromkeys(_CLAIMED, "due") | {"overlapping": "waiting"},
        takes=True,
        fenced=True,
    ),
    _call(
        "terminate_run-previous",
        "SCHEDULE-14",
        lambda store, schedule, n: store.terminate_run(run_id=schedule.previous_id, now_ms=schedule.now_ms),
        {"waiting": "due", "overlapping": "claimed"},
    ),
    _call(
        "create_run-of-tick",
        "SCHEDULE-13",
        lambda store, schedule, n: store.create_run(
            run_id=schedule.run_id(0),
            workflow_id=schedule.id,
            workflow_version="1",
            input=JsonText(str(n)),
            operation_id=f"{schedule.id}:creation-{n}",
            now_ms=schedule.now_ms,
        ),
        {state: state for state in SCHEDULE_STATES},
    ),
)
"""Calls that end something come first, because a race of two calls counts as one of the first of them."""
