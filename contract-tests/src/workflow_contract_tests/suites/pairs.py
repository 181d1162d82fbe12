"""Every verb that changes something against every other, at once: on one run, on one schedule, and on many runs."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

from ..cases import clause
from ..children import run_children
from ..harness import StoreHarness
from ..races.calls import Call
from ..races.meetings import all_meetings, sample_meetings
from ..races.orders import Allowed, Arena, Outcome, apart, race
from ..races.run_calls import RUN_CALLS, RUN_STATES, RunSubject
from ..races.run_states import make_run, run_arena
from ..races.schedule_calls import SCHEDULE_CALLS, SCHEDULE_STATES, ScheduleSubject
from ..races.schedule_states import schedule_arena
from ..settings import RACE_CLAIMERS, SCALE, SEED, scaled

_ROUNDS = scaled(2)
_AT_RUNS = sample_meetings(all_meetings(RUN_CALLS, RUN_STATES))
_AT_SCHEDULES = sample_meetings(all_meetings(SCHEDULE_CALLS, SCHEDULE_STATES))
_CLOSE = [meeting for meeting in all_meetings(RUN_CALLS, RUN_STATES) if meeting.kind in {"one wins", "one prevents"}]
_ACTING_ON_RUNS = [(call, state) for call in RUN_CALLS for state in call.next_states]
_WRITES = ("append_events", "mark_run_paused", "deliver_signal", "deliver_approval")


async def calls_to_one_run(h: StoreHarness, call: Call[RunSubject]) -> None:
    """At once with any other call, in any state of the run, the outcome is that of one of their orders."""
    chosen = random.Random(SEED)
    for meeting in _AT_RUNS[call.name]:
        arena = run_arena(h, meeting.state)
        await race(arena, [meeting.first, meeting.second], rounds=_ROUNDS, chosen=chosen)


async def calls_to_one_schedule(h: StoreHarness, call: Call[ScheduleSubject]) -> None:
    """At once with any other call, in any state of the schedule, the outcome is that of one of their orders."""
    chosen = random.Random(SEED)
    for meeting in _AT_SCHEDULES[call.name]:
        arena = schedule_arena(h, meeting.state)
        await race(arena, [meeting.first, meeting.second], rounds=_ROUNDS, chosen=chosen)


for _run_call in RUN_CALLS:
    clause(*_run_call.clauses, each=[_run_call])(calls_to_one_run)
for _schedule_call in SCHEDULE_CALLS:
    clause(*_schedule_call.clauses, each=[_schedule_call])(calls_to_one_schedule)


@clause("CANCEL-1", "CANCEL-3")
async def cancel_meets_each_write_of_the_holder(h: StoreHarness) -> None:
    """A request that comes at the very moment of a write is not forgotten by it."""
    chosen = random.Random(SEED)
    (cancel,) = (call for call in RUN_CALLS if call.name == "cancel_run")
    for call in (call for call in RUN_CALLS if call.fenced):
        await race(run_arena(h, "running-live"), [cancel, call], rounds=_ROUNDS, chosen=chosen)


@clause("STATUS-1", each=RUN_STATES)
async def three_calls_to_one_run(h: StoreHarness, state: str) -> None:
    """Of three calls at once, whichever they are, the outcome is that of one of their six orders."""
    chosen = random.Random(f"{SEED} {state}")
    acting = [call for call in RUN_CALLS if state in call.next_states]
    for _ in range(max(1, round(SCALE))):
        calls = chosen.choices(acting, k=3)
        await race(run_arena(h, state), calls, rounds=3, chosen=chosen)


@clause("RUN-4", each=("create_run", "create_run-claimed"))
async def creation_of_one_run_by_three(h: StoreHarness, name: str) -> None:
    """Of three creations of one id one stands, and the others are told of it."""
    await _three_of(run_arena(h, "absent"), RUN_CALLS, name)


@clause("SCHEDULE-1", "SCHEDULE-2", each=("upsert_schedule", "upsert_schedule-alike"))
async def creation_of_one_schedule_by_three(h: StoreHarness, name: str) -> None:
    """Of three creations of one schedule one creates it, and the others change it or find it as they want it."""
    await _three_of(schedule_arena(h, "absent"), SCHEDULE_CALLS, name)


@clause("SCHEDULE-4", each=("idle", "claimed"))
async def change_of_one_revision_by_three(h: StoreHarness, state: str) -> None:
    """Of three changes of one revision one is written, and the others are told of it."""
    await _three_of(schedule_arena(h, state), SCHEDULE_CALLS, "upsert_schedule-expected")


async def _three_of(arena: Arena[Any], table: tuple[Call[Any], ...], name: str) -> None:
    (call,) = (call for call in table if call.name == name)
    await race(arena, [call] * 3, rounds=scaled(9), chosen=random.Random(SEED))


@clause("STATUS-1", "PAUSE-1", "SIGNAL-1", "LOG-3")
async def calls_to_different_runs(h: StoreHarness) -> None:
    """Calls to runs of their own, all at once, each do what they do alone, whichever they are."""
    chosen = random.Random(SEED)
    for _ in range(scaled(2)):
        made = chosen.choices(_ACTING_ON_RUNS, k=30)
        await apart([(call, run_arena(h, state)) for call, state in made], await h.handles(RACE_CLAIMERS), chosen)


@clause("SIGNAL-1", "PAUSE-1", "LOG-3", "APPROVAL-1")
async def writes_to_many_runs(h: StoreHarness) -> None:
    """Of many pauses, appends and deliveries at once, each to a run of its own, none is lost."""
    chosen = random.Random(SEED)
    states = ("running-live", "paused")
    writes = [(call, state) for call, state in _ACTING_ON_RUNS if call.name in _WRITES and state in states]
    made = writes * scaled(15)
    chosen.shuffle(made)
    await apart([(call, run_arena(h, state)) for call, state in made], await h.handles(RACE_CLAIMERS), chosen)


@clause("STATUS-1", "CLAIM-4", "FENCE-1", "DEAD-1", "RETAIN-2", needs=("processes",))
async def calls_of_two_processes(h: StoreHarness) -> None:
    """Two processes that call at once for the same run bring about what their calls do in one of the two orders."""
    meetings = random.Random(SEED).sample(_CLOSE, min(scaled(24), len(_CLOSE)))
    arenas = [run_arena(h, meeting.state) for meeting in meetings]
    subjects = [await make_run(h, meeting.state) for meeting in meetings]
    runs = [dataclasses.asdict(subject) for subject in subjects]
    first = [(meeting.first.name, run) for meeting, run in zip(meetings, runs, strict=True)]
    second = [(meeting.second.name, run) for meeting, run in zip(meetings, runs, strict=True)]
    orders = [{"task": "meet", "calls": calls, "caller": n} for n, calls in enumerate((first, second))]
    answers = zip(*await run_children(h, orders), strict=True)
    for meeting, arena, subject, told in zip(meetings, arenas, subjects, answers, strict=True):
        calls = [meeting.first, meeting.second]
        allowed = Allowed(arena, calls)
        await allowed.try_orders()
        await allowed.check(Outcome(answers=told, left=await arena.look(h, subject, calls)))
