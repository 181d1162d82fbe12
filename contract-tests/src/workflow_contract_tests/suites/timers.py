"""TIMER: a paused run wakes at its earliest timer, once, and no timer is lost."""

from __future__ import annotations

from workflow_runtime.store import Timer

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS
from ..scenarios import claim, claim_due, claim_pending, claim_stale, create, record, start, start_waiting


@clause("TIMER-1", each=("schedule_timer", "append_events", "mark_run_paused"))
async def pause_is_due_at_the_earliest_timer(h: StoreHarness, verb: str) -> None:
    """Timers set by any write count at the next pause, which is due at the earliest of all."""
    holder = await start(h)
    early, late = h.now_ms + 1_000, h.now_ms + 5_000
    await holder.set_timer("late", fire_at_ms=late)
    if verb == "schedule_timer":
        await holder.set_timer("early", fire_at_ms=early)
    elif verb == "append_events":
        await holder.append("1", set_timers=[Timer(timer_id="early", fire_at_ms=early)])
    await holder.pause(timers={"early": early} if verb == "mark_run_paused" else {})
    assert (await record(h, holder.run_id)).due_at_ms == early
    assert (await claim_due(h, now_ms=early - 1)).claims == ()
    (taken,) = (await claim_due(h, now_ms=early)).claims
    assert [(t.timer_id, t.fire_at_ms) for t in taken.due_timers] == [("early", early)]


@clause("TIMER-1")
async def timer_moves(h: StoreHarness) -> None:
    """A timer whose id is there is moved, not doubled, to an earlier or a later time."""
    holder = await start(h)
    for at in (5_000, 1_000, 3_000):
        await holder.set_timer("t", fire_at_ms=h.now_ms + at)
        assert await _timers(h, holder) == [("t", h.now_ms + at)]
    await holder.append("1", set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 4_000)])
    await holder.pause()
    assert await _timers(h, holder) == [("t", h.now_ms + 4_000)]
    assert (await claim_due(h, now_ms=h.now_ms + 3_999)).claims == ()
    assert len((await claim_due(h, now_ms=h.now_ms + 4_000)).claims) == 1


async def _timers(h: StoreHarness, holder: LeaseHolder) -> list[tuple[str, int]]:
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    return [(timer.timer_id, timer.fire_at_ms) for timer in execution.timers]


@clause("TIMER-2", "CLAIM-4")
async def due_timers_claim_the_run_once(h: StoreHarness) -> None:
    """A run with several due timers is claimed once, with all of them, the earliest first."""
    holder = await start_waiting(
        h, timers={"c": h.now_ms + 30, "a": h.now_ms + 20, "b": h.now_ms + 10, "d": h.now_ms + 31}
    )
    h.advance(30)
    batch = await claim_due(h)
    assert [c.run.run_id for c in batch.claims] == [holder.run_id]
    assert [t.timer_id for t in batch.claims[0].due_timers] == ["b", "a", "c"]
    assert (await claim_due(h, store=h.second)).claims == ()


@clause("TIMER-2")
async def timers_of_others_do_not_wake(h: StoreHarness) -> None:
    """`claim_due_timers` takes no running, queued or ended run, whatever timers it has."""
    running = await start(h)
    await running.set_timer("t", fire_at_ms=h.now_ms)
    queued = await start(h)
    await queued.set_timer("t", fire_at_ms=h.now_ms)
    await queued.release()
    await create(h)
    ended = await start(h)
    await ended.set_timer("t", fire_at_ms=h.now_ms)
    await ended.finish()
    batch = await claim_due(h, now_ms=h.advance(1_000))
    assert (batch.claims, batch.next_due_ms) == ((), None)


@clause("TIMER-2")
async def waits_without_a_time_hide_no_timer(h: StoreHarness) -> None:
    """A claim tells of the earliest timer, though other paused runs like that one wait for nothing but a delivery."""
    for _ in range(2):
        await start_waiting(h, signals=["go"])
    await start_waiting(h, timers={"t": h.now_ms + 20})
    await start_waiting(h, timers={"t": h.now_ms + 10, "u": h.now_ms + 30})
    await start_waiting(h, signals=["go"])
    batch = await claim_due(h)
    assert (batch.claims, batch.next_due_ms) == ((), h.now_ms + 10)


@clause("TIMER-3", "CLAIM-9")
async def crash_after_the_claim_loses_no_timer(h: StoreHarness) -> None:
    """The timers of a run whose worker vanished after the claim come again with the next claim."""
    holder = await start_waiting(h, timers={"t": h.now_ms + 10, "u": h.now_ms + 20})
    h.advance(20)
    (first,) = (await claim_due(h)).claims
    h.advance(LEASE_MS)
    (second,) = (await claim_stale(h, store=h.second)).claims
    assert second.due_timers == first.due_timers
    again = LeaseHolder.of(h, second)
    await again.append("1", removed_timers=["t"])
    await again.release()
    third = await claim(h, holder.run_id)
    assert [t.timer_id for t in third.claim.due_timers] == ["u"]
    await third.pause()
    (fourth,) = (await claim_due(h)).claims
    assert [t.timer_id for t in fourth.due_timers] == ["u"], "a timer that no write removed is gone"


@clause("TIMER-3")
async def removed_timer_never_fires(h: StoreHarness) -> None:
    """A timer that a write removed is gone: a wait that was won by a signal does not time out later."""
    holder = await start_waiting(h, timers={"deadline": h.now_ms + 1_000})
    await holder.signal("go")
    again = await claim(h, holder.run_id)
    await again.pause(taken_inbox=[1], removed_timers=["deadline"], signals=["next"])
    assert (await record(h, holder.run_id)).due_at_ms is None
    assert (await claim_due(h, now_ms=h.now_ms + 10**9)).claims == ()


@clause("TIMER-2", "SIGNAL-1")
async def delivery_before_the_timer_wins_the_wake_up(h: StoreHarness) -> None:
    """A run that a delivery queued is not claimed by its timer as well, and brings the due timer along."""
    holder = await start_waiting(h, timers={"t": h.now_ms + 10})
    await holder.signal("go")
    h.advance(10)
    assert (await claim_due(h)).claims == ()
    (taken,) = (await claim_pending(h, store=h.second)).claims
    assert [t.timer_id for t in taken.due_timers] == ["t"]
    assert [e.name for e in taken.inbox] == ["go"]
