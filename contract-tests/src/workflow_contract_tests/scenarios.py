"""The steps that most cases begin with: a run is created, claimed, driven, left waiting."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    Appended,
    Awaited,
    ClaimBatch,
    Claimed,
    ClaimedRun,
    Created,
    LeaseRenewal,
    NewEvent,
    Paused,
    RunRecord,
    RunStatus,
    Timer,
    WorkflowExecutionStore,
)

from .harness import StoreHarness

__all__ = [
    "CLAIM_VERBS",
    "LEASE_MS",
    "MANY",
    "WRITES_WITH_EVENTS",
    "Driver",
    "claim",
    "claim_arguments",
    "claim_many",
    "create",
    "create_arguments",
    "event",
    "events",
    "observe",
    "record",
    "start",
    "start_full",
    "start_waiting",
    "unchanged",
]

LEASE_MS = 30_000
MANY = 1_000
"""A limit that no case reaches."""

WRITES_WITH_EVENTS = ("append_events", "mark_run_paused", "mark_run_finished", "mark_run_errored")
CLAIM_VERBS = ("claim_pending_runs", "claim_stale_runs", "claim_due_timers")


def event(payload: str | None = "null", *, kind: str = "note", step_id: str | None = None) -> NewEvent:
    """Make one event."""
    return NewEvent(kind=kind, step_id=step_id, payload=None if payload is None else JsonText(payload))


def events(*payloads: str) -> list[NewEvent]:
    """Make one event for each payload."""
    return [event(payload) for payload in payloads]


def create_arguments(h: StoreHarness, **overrides: Any) -> dict[str, Any]:
    """Arguments of a `create_run` that works."""
    return {
        "run_id": h.new_id("run"),
        "workflow_id": "orders",
        "workflow_version": "1",
        "input": '{"n":1}',
        "operation_id": h.new_id("op"),
        "now_ms": h.now_ms,
    } | overrides


async def create(h: StoreHarness, run_id: str | None = None, **overrides: Any) -> RunRecord:
    """Create a queued run."""
    arguments = create_arguments(h, **overrides) | ({} if run_id is None else {"run_id": run_id})
    answer = await h.store.create_run(**arguments)
    assert isinstance(answer, Created), f"create_run of a new id answered {answer.kind}"
    assert answer.claim is None, "a creation without a lease brought a claim"
    return answer.run


async def record(h: StoreHarness, run_id: str) -> RunRecord:
    """Read a run that is there, through the second handle."""
    run = await h.second.load_run(run_id=run_id)
    assert run is not None, f"run {run_id!r} is gone"
    return run


@dataclass
class Driver:
    """Drives one run as a worker does: knows the token, the length of the log, the inbox number."""

    harness: StoreHarness = field(repr=False)
    store: WorkflowExecutionStore = field(repr=False)
    run_id: str
    token: str
    next_index: int
    seen: int
    claim: ClaimedRun = field(repr=False)

    @classmethod
    def of(cls, h: StoreHarness, claim: ClaimedRun, store: WorkflowExecutionStore | None = None) -> Driver:
        """Take over a claim."""
        return cls(
            harness=h,
            store=store or h.store,
            run_id=claim.run.run_id,
            token=claim.lease.token,
            next_index=claim.run.next_index,
            seen=claim.run.inbox_seq,
            claim=claim,
        )

    def arguments(self, verb: str, **overrides: Any) -> dict[str, Any]:
        """Arguments with which a driver's verb works, as this driver knows the run."""
        h = self.harness
        common = {"run_id": self.run_id, "lease_token": self.token, "now_ms": h.now_ms}
        if verb == "heartbeat_run_lease":
            return common | {"lease_ms": LEASE_MS} | overrides
        common["operation_id"] = h.new_id("op")
        own: dict[str, dict[str, Any]] = {
            "append_events": {"expected_next_index": self.next_index, "events": events("1"), "lease_ms": LEASE_MS},
            "release_run_lease": {},
            "schedule_timer": {"timer_id": "alarm", "fire_at_ms": h.now_ms + 1_000},
            "mark_run_paused": {"expected_next_index": self.next_index, "seen_inbox_seq": self.seen},
            "mark_run_finished": {"expected_next_index": self.next_index, "output": '"done"'},
            "mark_run_errored": {"expected_next_index": self.next_index, "error": '{"type":"Boom"}'},
        }
        return common | own[verb] | overrides

    def everything(self, verb: str, **overrides: Any) -> dict[str, Any]:
        """Arguments with which a driver's write changes all that it can: log, inbox, timers.

        The run should have a timer `old` and an inbox entry.
        """
        extra: dict[str, Any] = {}
        if verb in WRITES_WITH_EVENTS:
            extra = {"events": events('"e1"', '"e2"'), "taken_inbox": [1]}
        if verb in {"append_events", "mark_run_paused"}:
            new = Timer(timer_id="new", fire_at_ms=self.harness.now_ms + 10**6)
            extra |= {"set_timers": [new], "removed_timers": ["old"]}
        if verb == "mark_run_paused":
            extra |= {"seen_inbox_seq": 1, "awaited": [Awaited(kind="signal", name="go", step_id="wait-go")]}
        return self.arguments(verb, **(extra | overrides))

    async def call(self, verb: str, **overrides: Any) -> Any:
        """Call a driver's verb."""
        return await getattr(self.store, verb)(**self.arguments(verb, **overrides))

    async def append(self, *payloads: str, **overrides: Any) -> Appended:
        """Append one event for each payload."""
        answer: Appended = await self.call("append_events", **({"events": events(*payloads)} | overrides))
        self.next_index, self.seen = answer.next_index, answer.inbox_seq
        return answer

    async def pause(
        self,
        *,
        signals: Iterable[str] = (),
        approvals: Iterable[str] = (),
        timers: Mapping[str, int] | None = None,
        **overrides: Any,
    ) -> Paused:
        """End the lease, waiting for signals, approvals and timers (id to time)."""
        awaited = [Awaited(kind="signal", name=name, step_id=f"wait-{name}") for name in signals]
        awaited += [Awaited(kind="approval", name=name, step_id=f"ask-{name}") for name in approvals]
        set_timers = [Timer(timer_id=name, fire_at_ms=at) for name, at in (timers or {}).items()]
        answer: Paused = await self.call(
            "mark_run_paused", **({"awaited": awaited, "set_timers": set_timers} | overrides)
        )
        self.next_index = answer.next_index
        return answer

    async def finish(self, output: str = '"done"', **overrides: Any) -> None:
        """End the run with an output."""
        await self.call("mark_run_finished", **({"output": output} | overrides))

    async def fail(self, error: str = '{"type":"Boom"}', **overrides: Any) -> None:
        """End the run with an error."""
        await self.call("mark_run_errored", **({"error": error} | overrides))

    async def release(self, **overrides: Any) -> None:
        """Hand the run over."""
        await self.call("release_run_lease", **overrides)

    async def heartbeat(self, **overrides: Any) -> LeaseRenewal:
        """Renew the lease."""
        answer: LeaseRenewal = await self.call("heartbeat_run_lease", **overrides)
        return answer

    async def signal(self, name: str = "go", signal_id: str | None = None, payload: str | None = "null") -> Any:
        """Deliver a signal to the run, as somebody outside."""
        return await self.harness.second.deliver_signal(
            run_id=self.run_id,
            signal_id=signal_id or self.harness.new_id("signal"),
            name=name,
            payload=None if payload is None else JsonText(payload),
            now_ms=self.harness.now_ms,
        )


async def start(h: StoreHarness, run_id: str | None = None, **overrides: Any) -> Driver:
    """Create a run and claim it in the same unit."""
    lease = {"owner": "worker-1", "lease_ms": LEASE_MS}
    named = {} if run_id is None else {"run_id": run_id}
    answer = await h.store.create_run(**create_arguments(h, **(lease | overrides | named)))
    assert isinstance(answer, Created), f"create_run of a new id answered {answer.kind}"
    assert answer.claim is not None, "create_run with owner and lease_ms brought no claim"
    return Driver.of(h, answer.claim)


async def start_full(h: StoreHarness, **overrides: Any) -> Driver:
    """Start a run that has an event, an inbox entry and a timer `old`: one on which every write leaves a trace."""
    driver = await start(h, **overrides)
    await driver.append('"e0"', set_timers=[Timer(timer_id="old", fire_at_ms=h.now_ms + 10**7)])
    await driver.signal("go", "s1")
    return driver


async def start_waiting(
    h: StoreHarness,
    *,
    signals: Sequence[str] = ("go",),
    approvals: Sequence[str] = (),
    timers: Mapping[str, int] | None = None,
    **overrides: Any,
) -> Driver:
    """Leave a run paused, waiting for a signal unless told otherwise."""
    driver = await start(h, **overrides)
    paused = await driver.pause(signals=signals, approvals=approvals, timers=timers)
    assert paused.status is RunStatus.PAUSED, f"a run with an empty inbox was paused as {paused.status}"
    return driver


async def claim(
    h: StoreHarness, run_id: str, *, store: WorkflowExecutionStore | None = None, **overrides: Any
) -> Driver:
    """Claim a run that is claimable."""
    store = store or h.store
    arguments: dict[str, Any] = {"run_id": run_id, "owner": "worker-2", "lease_ms": LEASE_MS, "now_ms": h.now_ms}
    answer = await store.claim_run(**({"max_crashes": MANY} | arguments | overrides))
    assert isinstance(answer, Claimed), f"claim_run of a claimable run answered {answer}"
    return Driver.of(h, answer.claim, store)


def claim_arguments(h: StoreHarness, verb: str, **overrides: Any) -> dict[str, Any]:
    """Arguments of one of the claims for several runs."""
    arguments: dict[str, Any] = {"owner": "worker-3", "lease_ms": LEASE_MS, "now_ms": h.now_ms, "limit": MANY}
    if verb == "claim_stale_runs":
        arguments["max_crashes"] = MANY
    return arguments | overrides


async def claim_many(
    h: StoreHarness, verb: str, *, store: WorkflowExecutionStore | None = None, **overrides: Any
) -> ClaimBatch:
    """Call one of the claims for several runs."""
    answer: ClaimBatch = await getattr(store or h.store, verb)(**claim_arguments(h, verb, **overrides))
    return answer


async def hear_of(*drivers: Driver) -> None:
    """Give a sign of life under leases, without making them longer: what happens then counts as a crash."""
    for driver in drivers:
        await driver.heartbeat(now_ms=0, lease_ms=1)


async def park(h: StoreHarness, *drivers: Driver, **overrides: Any) -> ClaimBatch:
    """Let runs become dead at their first crash; their leases must be over by then."""
    await hear_of(*drivers)
    return await claim_many(h, "claim_stale_runs", **({"max_crashes": 1} | overrides))


async def observe(h: StoreHarness, *run_ids: str) -> dict[str, Any]:
    """Everything that a store shows of some runs."""
    seen: dict[str, Any] = {}
    for run_id in run_ids:
        execution = await h.second.load_execution(run_id=run_id, history_limit=10_000, history_bytes=10**9)
        timeline = None if execution is None else await h.second.get_run_timeline(run_id=run_id, limit=10_000)
        seen[run_id] = (execution, timeline)
    return seen


@asynccontextmanager
async def unchanged(h: StoreHarness, *run_ids: str, after: str = "the call") -> AsyncIterator[None]:
    """Hold that nothing of these runs changes in between."""
    before = await observe(h, *run_ids)
    yield
    now = await observe(h, *run_ids)
    for run_id in run_ids:
        assert now[run_id] == before[run_id], f"{after} changed {run_id}:\n{before[run_id]}\nbecame\n{now[run_id]}"
