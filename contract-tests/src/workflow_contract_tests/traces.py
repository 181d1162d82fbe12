"""A store with a trace of every verb that writes, all that it shows of them, and what it must still know."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from workflow_runtime.store import NewEvent, Timer

from .harness import StoreHarness
from .holder import LeaseHolder
from .samples import MANY, event
from .scenarios import claim, create_arguments, observe, park, start, start_full, start_waiting
from .ticking import HOUR, claim_tick, request, settle, settle_arguments, upsert

__all__ = ["TickTraces", "Traces", "leave_tick_traces", "leave_traces", "look_around"]


@dataclass(frozen=True, kw_only=True)
class Traces:
    """The traces of verbs about runs, with the calls whose repetition must be recognised."""

    holder: LeaseHolder
    """The holder of a live lease."""
    created: dict[str, Any]
    forked: dict[str, Any]
    appended: dict[str, Any]

    async def check_memory(self, h: StoreHarness) -> None:
        """Assert that the store still knows operations, delivered ids and leases, and goes on."""
        run_id, now_ms = self.holder.run_id, h.now_ms
        store = h.store
        known = [
            (await store.create_run(**self.created), "created"),
            (await store.fork_run(**self.forked), "forked"),
            (await store.deliver_signal(run_id=run_id, signal_id="s1", name="x", payload=None, now_ms=now_ms), "dup"),
            (await store.deliver_approval(run_id=run_id, approval_id="a1", approved=False, now_ms=now_ms), "already"),
            (await store.deliver_retry(run_id=run_id, retry_id="r1", now_ms=now_ms), "dup"),
            (await store.cancel_run(run_id="cancelled", now_ms=now_ms), "dup"),
            (await store.cancel_run(run_id="cancelled-in-bulk", now_ms=now_ms), "dup"),
        ]
        assert [answer.kind for answer, kind in known if not answer.kind.startswith(kind)] == [], (
            f"something is known no more: {[answer.kind for answer, _ in known]}"
        )
        assert (await store.append_events(**self.appended)).next_index == self.holder.next_index
        await self._go_on(h)

    async def _go_on(self, h: StoreHarness) -> None:
        answer = await h.store.append_events(**self.holder.append_arguments())
        assert answer.next_index == self.holder.next_index + 1, "the lease is worth nothing any more"
        for verb, expected in (
            (h.store.claim_due_timers, {"paused"}),
            (h.store.claim_pending_runs, {"queued", "woken", "cancelled", "requeued", "retried", "fork"}),
        ):
            batch = await verb(owner="w", lease_ms=1, now_ms=h.now_ms + HOUR, limit=MANY)
            assert {taken.run.run_id for taken in batch.claims} >= expected, f"{verb.__name__} found too few"


@dataclass(frozen=True, kw_only=True)
class TickTraces:
    """The traces of verbs about schedules."""

    settled: dict[str, Any]
    settled_answer: Any
    claimed_tick: Any
    """A tick under a live lease."""

    async def check_memory(self, h: StoreHarness) -> None:
        """Assert that the store still knows the settled tick, the requests and the claim."""
        assert await h.store.mark_schedule_bucket_started(**self.settled) == self.settled_answer
        assert await request(h, 5, 7, schedule_id="asked") == 0, "a requested tick was requested again"
        assert (await settle(h, self.claimed_tick, "start", "tick-2")).kind == "started", "the tick's claim is gone"


async def leave_traces(h: StoreHarness) -> Traces:
    """Write something by every verb that writes runs."""
    holder = await start_full(h, run_id="running", priority=-7, queue="é")
    created = create_arguments(h, run_id="queued", available_at_ms=h.now_ms + 9, priority=7)
    await h.store.create_run(**created)
    forked = await _derived_runs(h)
    await _ended_runs(h)
    await h.store.deliver_approval(run_id="running", approval_id="a1", approved=True, now_ms=h.now_ms)
    await h.store.deliver_retry(run_id="running", retry_id="r1", now_ms=h.now_ms)
    await holder.set_timer("set", h.now_ms + 77)
    appended = holder.append_arguments(
        events=[event('"e"', step_id="é"), event(None)], taken_inbox=[1], removed_timers=["old"],
        set_timers=[Timer(timer_id="new", fire_at_ms=h.now_ms + 99)],
    )  # fmt: skip
    holder.next_index = (await h.store.append_events(**appended)).next_index
    await holder.heartbeat(lease_ms=10 * HOUR)
    return Traces(holder=holder, created=created, forked=forked, appended=appended)


async def _derived_runs(h: StoreHarness) -> dict[str, Any]:
    """Leave runs in the statuses that are not terminal, and the fork of one."""
    await start_waiting(h, run_id="paused", signals=["go"], approvals=["ok"], timers={"t": h.now_ms + 9})
    await (await start_waiting(h, run_id="woken")).signal("go", "s9", '"x"')
    await start_waiting(h, run_id="cancelled")
    await h.store.cancel_run(run_id="cancelled", now_ms=h.now_ms, reason="é")
    await start_waiting(h, run_id="cancelled-in-bulk")
    await h.store.cancel_runs(run_ids=["cancelled-in-bulk"], now_ms=h.now_ms)
    await (await start(h, "released")).release()
    await claim(h, "released", lease_ms=10 * HOUR)
    forked: dict[str, Any] = {"run_id": "running", "new_run_id": "fork", "from_index": 1, "event": event('"f"')}
    forked |= {"operation_id": h.new_id("op"), "now_ms": h.now_ms}
    await h.store.fork_run(**forked)
    return forked


async def _ended_runs(h: StoreHarness) -> None:
    """Leave runs that have ended in each way, some brought back, and erase two."""
    await (await start(h, "finished")).finish('"out"', events=[event('"last"')])
    await (await start(h, "errored")).fail()
    await (await start(h, "aborted")).fail(aborted=True, reason="r")
    await (await start(h, "parked")).fail(parked=True, reason="p")
    await start_waiting(h, run_id="terminated")
    await h.store.terminate_run(run_id="terminated", now_ms=h.now_ms, reason="t")
    doomed = await start(h, "died", lease_ms=1, queue="doomed")
    await park(h, doomed, now_ms=h.now_ms + 1, queues=["doomed"])
    await (await start(h, "requeued")).fail(parked=True)
    await h.store.requeue_run(run_id="requeued", now_ms=h.now_ms)
    await (await start(h, "retried")).fail()
    await h.store.retry_run(run_id="retried", event=NewEvent(kind="retried"), now_ms=h.now_ms)
    await start_waiting(h, run_id="gone")
    await h.store.delete_run(run_id="gone", now_ms=h.now_ms)
    await (await start(h, "pruned", workflow_id="pruned")).finish()
    await h.store.prune_runs(finished_before_ms=h.now_ms + 1, limit=9, workflow_ids=["pruned"])


async def leave_tick_traces(h: StoreHarness) -> TickTraces:
    """Write something by every verb that writes schedules: requested, settled and claimed ticks."""
    await upsert(h, "asked", next_fire_at_ms=None, enabled=False, workflow_id="asked")
    await request(h, 7, 5, schedule_id="asked", overlap="buffer-all")
    await upsert(h, "off")
    await h.store.delete_schedule(schedule_id="off")
    await upsert(h, "nightly", overlap_policy="allow", priority=3)
    tick = await claim_tick(h, workflow_ids=["report"])
    settled = settle_arguments(h, tick, "start", "tick-1", next_fire_at_ms=h.now_ms + 1)
    answer = await h.store.mark_schedule_bucket_started(**settled)
    h.advance(1)
    claimed = await claim_tick(h, workflow_ids=["report"], lease_ms=10 * HOUR)
    return TickTraces(settled=settled, settled_answer=answer, claimed_tick=claimed)


async def look_around(h: StoreHarness, *, schedules: bool = False) -> dict[str, Any]:
    """Return everything that a store shows: all runs, and if wanted all schedules and requested ticks."""
    runs = (await h.second.list_runs(limit=MANY)).runs
    seen: dict[str, Any] = {"runs": runs, "counts": dict(await h.second.count_runs())}
    if schedules:
        listed = seen["schedules"] = (await h.second.list_schedules(limit=MANY)).schedules
        seen["requested"] = [
            await h.second.list_requested_buckets(schedule_id=schedule.schedule_id, limit=MANY) for schedule in listed
        ]
    return seen | await observe(h, *(run.run_id for run in runs))
