"""Runs as the subjects of races: one in each state, and what is left of it afterwards."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_runtime.store import Timer

from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event
from ..scenarios import create_arguments, start
from .calls import Call, show
from .orders import Arena
from .run_calls import ABSENT, WAITING, RunSubject

__all__ = ["look_at_run", "make_run", "run_arena"]

_LATER_MS = 10
"""The time between the making of a run and the calls: the shortest lease has expired, a timer has come."""


def run_arena(h: StoreHarness, state: str) -> Arena[RunSubject]:
    """Return the place where calls meet at runs in a state."""
    return Arena(h=h, state=state, make=make_run, look=look_at_run, glance=glance_at_run)


async def make_run(h: StoreHarness, state: str) -> RunSubject:
    """Make a run in one of the states, or only an id."""
    run_id = h.new_id("run")
    if state == ABSENT:
        return RunSubject(id=run_id, token="none", next_index=0, now_ms=h.now_ms + _LATER_MS)
    facts = {"queue": run_id, "workflow_id": run_id}
    if state == "queued":
        await h.store.create_run(**create_arguments(h, run_id=run_id, **facts))
        return RunSubject(id=run_id, token="none", next_index=0, now_ms=h.now_ms + _LATER_MS)
    holder = await start(h, run_id, lease_ms=1 if state == "running-expired" else LEASE_MS, **facts)
    await _bring(holder, state)
    return RunSubject(id=run_id, token=holder.token, next_index=holder.next_index, now_ms=h.now_ms + _LATER_MS)


async def _bring(holder: LeaseHolder, state: str) -> None:
    """Bring a run from the hands of its first driver into a state, with an event in its log."""
    first = [event('"first"')]
    now_ms = holder.harness.now_ms
    match state:
        case "running-live":
            return
        case "running-expired":
            await holder.append(events=first, lease_ms=1)
        case "paused" | "paused-due":
            fire_at_ms = now_ms + (1 if state == "paused-due" else LEASE_MS)
            timer = Timer(timer_id="t", fire_at_ms=fire_at_ms)
            await holder.pause(events=first, awaited=WAITING, set_timers=[timer])
        case "finished":
            await holder.finish(events=first)
        case "errored" | "aborted" | "dead":
            await holder.fail(events=first, aborted=state == "aborted", parked=state == "dead")
        case _:
            raise AssertionError(f"the table has a state {state!r} that races cannot make")
    holder.next_index = 1


async def glance_at_run(h: StoreHarness, run: RunSubject) -> str:
    """Return what a store shows of a run and of its fork."""
    ids = (run.id, run.fork_id)
    return "\n  ".join([show(await h.second.load_execution(run_id=run_id), run) for run_id in ids])


async def look_at_run(h: StoreHarness, run: RunSubject, calls: Sequence[Call[RunSubject]]) -> str:
    """Return what a store shows of a run and of its fork, and what a worker then gets.

    The id of a run that is gone is used again: its namesake must have nothing of it.
    """
    execution = await h.second.load_execution(run_id=run.id, history_limit=MANY)
    seen: list[object] = [execution]
    if execution is None:
        namesake = await start(h, run.id)
        await namesake.signal("go", "s0")
        seen.append(await h.second.load_execution(run_id=run.id, history_limit=MANY))
    else:
        seen.append((await h.store.get_run_timeline(run_id=run.id, limit=MANY)).entries)
        seen.append(
            await h.second.claim_run(
                run_id=run.id, owner="last", lease_ms=LEASE_MS, now_ms=run.now_ms, max_crashes=MANY
            )
        )
    if any(call.verb == "fork_run" for call in calls):
        seen.append(await h.store.load_execution(run_id=run.fork_id, history_limit=MANY))
    return "\n      ".join(show(value, run) for value in seen)
