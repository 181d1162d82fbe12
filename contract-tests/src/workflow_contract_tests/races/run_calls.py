"""The table of calls that change one run: every mutating verb, with the states in which it changes something."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    DRIVER_VERBS,
    STATES,
    STATUS_TABLE,
    TERMINAL_STATUSES,
    Awaited,
    RunStatus,
    RunToCreate,
    SignalToDeliver,
    Timer,
    WorkflowExecutionStore,
)

from ..samples import LEASE_MS, MANY, event, events
from ..verbs import HEARTBEAT_RUN_LEASES
from .calls import Call

__all__ = ["ABSENT", "RUN_CALLS", "RUN_STATES", "WAITING", "RunSubject"]

ABSENT = "absent"
RUN_STATES = (ABSENT, *STATES)
"""The states of `STATUS_TABLE`, and that of an id without a run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSubject:
    """A run that calls are about. It has a queue and a workflow of its own, so claims and prunes find no other."""

    id: str
    token: str
    next_index: int
    now_ms: int

    @property
    def fork_id(self) -> str:
        """The id of the run that forks of it get."""
        return f"{self.id}:fork"

    def fence(self) -> dict[str, Any]:
        """Return what every call of its holder says."""
        return {"run_id": self.id, "lease_token": self.token, "now_ms": self.now_ms}

    def write(self, caller: int) -> dict[str, Any]:
        """Return what every write of its holder says."""
        return self.fence() | {"operation_id": f"{self.id}:{caller}"}

    def append(self, caller: int) -> dict[str, Any]:
        """Return what every write of its holder says that appends events."""
        own = {"expected_next_index": self.next_index, "events": events(f"[{caller},0]", f"[{caller},1]")}
        return self.write(caller) | own

    def claim(self, caller: int) -> dict[str, Any]:
        """Return what every claim says."""
        return {"owner": f"worker-{caller}", "lease_ms": LEASE_MS, "now_ms": self.now_ms}

    def batch(self, caller: int) -> dict[str, Any]:
        """Return what every claim of several says."""
        return self.claim(caller) | {"limit": MANY, "queues": [self.id]}

    def named(self) -> dict[str, Any]:
        """Return what every call from outside says."""
        return {"run_id": self.id, "now_ms": self.now_ms}

    def many(self) -> dict[str, Any]:
        """Return what every call for several runs says."""
        return {"run_ids": [self.id], "now_ms": self.now_ms}

    def creation(self, caller: int) -> dict[str, Any]:
        """Return what every creation says."""
        return self.named() | {
            "workflow_id": self.id,
            "workflow_version": "1",
            "queue": self.id,
            "input": JsonText(f'{{"from":{caller}}}'),
            "operation_id": f"{self.id}:{caller}",
        }

    def to_create(self, caller: int) -> RunToCreate:
        """Return the same as one of many."""
        facts = self.creation(caller)
        del facts["now_ms"]
        return RunToCreate(**facts)

    def signal(self, caller: int) -> SignalToDeliver:
        """Return a signal as one of many."""
        return SignalToDeliver(run_id=self.id, signal_id=f"m{caller}", name="go", payload=JsonText(str(caller)))


_Act: TypeAlias = Callable[[WorkflowExecutionStore, RunSubject, int], Coroutine[Any, Any, Any]]
_CHANGES_NOTHING = {
    "existing",
    "finished",
    "kept",
    "lease-lost",
    "not-claimable",
    "not-claimed",
    "not-deletable",
    "not-requeueable",
    "not-retryable",
}
"""Answers of the table after which the run is as before."""
_NO_CLAIMS = r"ClaimBatch\(claims=\(\), .* dead=\(\)\)"
_NOTHING = {
    "claim_pending_runs": _NO_CLAIMS,
    "claim_stale_runs": _NO_CLAIMS,
    "claim_due_timers": _NO_CLAIMS,
    "prune_runs": "0",
}


def _call(
    name: str,
    clauses: str,
    act: _Act,
    *,
    to: str | Mapping[str, str] = {},  # read only
    row: Mapping[str, str] | None = None,
) -> Call[RunSubject]:
    """Return the call of a verb.

    Args:
        name: The verb, then what is special about the arguments.
        clauses: The clauses that a race of it tests, apart by spaces.
        act: Makes the call.
        to: The state that the run is in afterwards, from any state or by each; where none is named, as before.
        row: The answers of the verb in each state, if they are not those of its row in the table.
    """
    verb = name.partition("-")[0]
    answers = STATUS_TABLE[verb] if row is None else row
    changes = [state for state in RUN_STATES if answers.get(state, "kept") not in _CHANGES_NOTHING]
    return Call(
        name=name,
        verb=verb,
        clauses=tuple(clauses.split()),
        act=act,
        next_states={state: to if isinstance(to, str) else to.get(state, state) for state in changes},
        fenced=verb in {*DRIVER_VERBS, HEARTBEAT_RUN_LEASES.name},
        takes=verb.startswith("claim"),
        nothing=_NOTHING.get(verb),
    )


def _alarm(run: RunSubject) -> Timer:
    return Timer(timer_id="alarm", fire_at_ms=run.now_ms + 1_000)


_WOKEN = {"paused": "queued", "paused-due": "queued"}
_CREATED = {ABSENT: "created"}
_DELETABLE = dict.fromkeys(STATES, "deleted")
_RETRIED = STATUS_TABLE["retry_run"]
_RETRIED_ABORTED = dict.fromkeys(STATES, "not-retryable") | {"aborted": "retried"}
WAITING = (
    Awaited(kind="signal", name="go", step_id="wait-go"),
    Awaited(kind="approval", name="ok", step_id="ask-ok"),
)
"""Signal and approval that paused runs wait for."""

RUN_CALLS: tuple[Call[RunSubject], ...] = (
    _call("delete_run", "RETAIN-1 RETAIN-2", lambda store, run, n: store.delete_run(**run.named()), to=ABSENT),
    _call(
        "delete_run-forced",
        "RETAIN-1 RETAIN-2 FENCE-1",
        lambda store, run, n: store.delete_run(**run.named(), force=True),
        to=ABSENT,
        row=_DELETABLE,
    ),
    _call(
        "prune_runs",
        "RETAIN-3",
        lambda store, run, n: store.prune_runs(
            finished_before_ms=run.now_ms,
            limit=MANY,
            statuses=sorted(TERMINAL_STATUSES),
            workflow_ids=[run.id],
        ),
        to=ABSENT,
    ),
    _call(
        "terminate_run",
        "CANCEL-4 FENCE-1",
        lambda store, run, n: store.terminate_run(**run.named(), reason=f"said {n}"),
        to="aborted",
    ),
    _call(
        "terminate_runs",
        "BULK-2 CANCEL-4",
        lambda store, run, n: store.terminate_runs(**run.many(), reason=f"said {n}"),
        to="aborted",
        row=STATUS_TABLE["terminate_run"],
    ),
    _call("requeue_run", "DEAD-1", lambda store, run, n: store.requeue_run(**run.named()), to="queued"),
    _call(
        "requeue_runs",
        "BULK-2 DEAD-1",
        lambda store, run, n: store.requeue_runs(**run.many()),
        to="queued",
        row=STATUS_TABLE["requeue_run"],
    ),
    _call(
        "retry_run",
        "RETRY-2 RETRY-1",
        lambda store, run, n: store.retry_run(**run.named(), event=event(str(n), kind="retried")),
        to="queued",
    ),
    _call(
        "retry_run-aborted",
        "RETRY-2 RETRY-4",
        lambda store, run, n: store.retry_run(
            **run.named(), event=event(str(n), kind="retried"), statuses=[RunStatus.ABORTED]
        ),
        to="queued",
        row=_RETRIED_ABORTED,
    ),
    _call(
        "retry_runs",
        "BULK-2 RETRY-2",
        lambda store, run, n: store.retry_runs(**run.many(), event=event(str(n), kind="retried")),
        to="queued",
        row=_RETRIED,
    ),
    _call(
        "cancel_run",
        "CANCEL-1 CANCEL-2",
        lambda store, run, n: store.cancel_run(**run.named(), reason=f"said {n}"),
        to=_WOKEN,
    ),
    _call(
        "cancel_runs",
        "BULK-2 CANCEL-1",
        lambda store, run, n: store.cancel_runs(**run.many(), reason=f"said {n}"),
        to=_WOKEN,
        row=STATUS_TABLE["cancel_run"],
    ),
    _call(
        "create_run",
        "RUN-4 RUN-1",
        lambda store, run, n: store.create_run(**run.creation(n)),
        to="queued",
        row=_CREATED,
    ),
    _call(
        "create_runs",
        "BULK-2 RUN-4",
        lambda store, run, n: store.create_runs(runs=[run.to_create(n)], now_ms=run.now_ms),
        to="queued",
        row=_CREATED,
    ),
    _call(
        "create_run-claimed",
        "RUN-4 RUN-2",
        lambda store, run, n: store.create_run(**run.creation(n), owner=f"worker-{n}", lease_ms=LEASE_MS),
        to="running-live",
        row=_CREATED,
    ),
    _call(
        "fork_run",
        "FORK-4 FORK-2",
        lambda store, run, n: store.fork_run(
            **run.named(),
            new_run_id=run.fork_id,
            from_index=run.next_index,
            event=event(str(n), kind="forked"),
            operation_id=f"{run.id}:{n}",
        ),
    ),
    _call(
        "claim_run",
        "CLAIM-4 CLAIM-1",
        lambda store, run, n: store.claim_run(run_id=run.id, max_crashes=MANY, **run.claim(n)),
        to="running-live",
    ),
    _call(
        "claim_run-parks",
        "DEAD-2 CLAIM-1",
        lambda store, run, n: store.claim_run(run_id=run.id, max_crashes=1, **run.claim(n)),
        to={"queued": "running-live", "running-expired": "dead", "paused-due": "running-live"},
    ),
    _call(
        "claim_pending_runs",
        "CLAIM-4 CLAIM-9",
        lambda store, run, n: store.claim_pending_runs(**run.batch(n)),
        to="running-live",
    ),
    _call(
        "claim_stale_runs",
        "CLAIM-4 DEAD-2",
        lambda store, run, n: store.claim_stale_runs(max_crashes=MANY, **run.batch(n)),
        to="running-live",
    ),
    _call(
        "claim_stale_runs-parks",
        "DEAD-2",
        lambda store, run, n: store.claim_stale_runs(max_crashes=1, **run.batch(n)),
        to="dead",
    ),
    _call(
        "claim_due_timers",
        "TIMER-2 CLAIM-4",
        lambda store, run, n: store.claim_due_timers(**run.batch(n)),
        to="running-live",
    ),
    _call(
        "deliver_signal",
        "SIGNAL-4 SIGNAL-1 PAUSE-3",
        lambda store, run, n: store.deliver_signal(
            **run.named(), signal_id=f"s{n}", name="go", payload=JsonText(str(n))
        ),
        to=_WOKEN,
    ),
    _call(
        "deliver_signals",
        "BULK-2 SIGNAL-4 PAUSE-3",
        lambda store, run, n: store.deliver_signals(signals=[run.signal(n)], now_ms=run.now_ms),
        to=_WOKEN,
        row=STATUS_TABLE["deliver_signal"],
    ),
    _call(
        "deliver_signal-repeated",
        "SIGNAL-2 SIGNAL-1",
        lambda store, run, n: store.deliver_signal(**run.named(), signal_id="s", name="go", payload=JsonText(str(n))),
        to=_WOKEN,
    ),
    _call(
        "deliver_signal-if-waiting",
        "SIGNAL-5 SIGNAL-1",
        lambda store, run, n: store.deliver_signal(
            **run.named(), signal_id=f"w{n}", name="go", payload=None, only_if_waiting=True
        ),
        to="queued",
        row=dict.fromkeys(STATES, "not-claimed") | dict.fromkeys(("paused", "paused-due"), "delivered"),
    ),
    _call(
        "deliver_approval",
        "APPROVAL-2 APPROVAL-1 PAUSE-3",
        lambda store, run, n: store.deliver_approval(**run.named(), approval_id="ok", approved=n == 0),
        to=_WOKEN,
    ),
    _call(
        "deliver_retry",
        "SIGNAL-7 SIGNAL-4",
        lambda store, run, n: store.deliver_retry(**run.named(), retry_id=f"r{n}"),
        to=_WOKEN,
    ),
    _call(
        "append_events",
        "LOG-5 LOG-3 FENCE-1",
        lambda store, run, n: store.append_events(**run.append(n), lease_ms=LEASE_MS, set_timers=[_alarm(run)]),
        to="running-live",
    ),
    _call(
        "heartbeat_run_lease",
        "LEASE-1 FENCE-1",
        lambda store, run, n: store.heartbeat_run_lease(**run.fence(), lease_ms=LEASE_MS),
        to="running-live",
    ),
    _call(
        "heartbeat_run_leases",
        "LEASE-4 FENCE-1",
        lambda store, run, n: HEARTBEAT_RUN_LEASES.of(store)(**run.fence(), lease_ms=LEASE_MS),
        to="running-live",
        row=STATUS_TABLE["heartbeat_run_lease"],
    ),
    _call(
        "release_run_lease",
        "LEASE-3 FENCE-1",
        lambda store, run, n: store.release_run_lease(**run.write(n)),
        to="queued",
    ),
    _call(
        "schedule_timer",
        "TIMER-1 FENCE-1",
        lambda store, run, n: store.schedule_timer(
            **run.write(n), timer_id=f"timer-{n}", fire_at_ms=run.now_ms + 1_000 - n
        ),
    ),
    _call(
        "mark_run_paused",
        "PAUSE-1 FENCE-1",
        lambda store, run, n: store.mark_run_paused(
            **run.append(n), seen_inbox_seq=0, awaited=WAITING, set_timers=[_alarm(run)]
        ),
        to="paused",
    ),
    _call(
        "mark_run_finished",
        "FINISH-1 FENCE-1",
        lambda store, run, n: store.mark_run_finished(**run.append(n), output=JsonText(str(n))),
        to="finished",
    ),
    _call(
        "mark_run_errored",
        "FINISH-3 FENCE-1",
        lambda store, run, n: store.mark_run_errored(**run.append(n), error=JsonText(str(n))),
        to="errored",
    ),
    _call(
        "mark_run_errored-parked",
        "FINISH-4 FENCE-1",
        lambda store, run, n: store.mark_run_errored(**run.append(n), error=JsonText(str(n)), parked=True),
        to="dead",
    ),
)
"""Calls that end a run come first, because a race of two calls counts as one of the first of them."""
