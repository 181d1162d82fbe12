"""Calls whose caller goes away, or whose connection breaks: at any await, at any statement, with their process."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from typing import Any

from ..cases import clause
from ..children import kill_child
from ..harness import StoreHarness
from ..races.calls import Call
from ..races.disturbances import disturb
from ..races.interruptions import MOMENTS, Effect, cut_short
from ..races.run_calls import RUN_CALLS, RunSubject
from ..races.run_states import make_run, run_arena
from ..races.schedule_calls import SCHEDULE_CALLS, ScheduleSubject
from ..races.schedule_states import schedule_arena
from ..settings import SCALE, SEED, scaled
from ..statements import DISTURBANCES

_ALL_FROM_SCALE = 3
_AGAIN = DISTURBANCES if SCALE >= 10 else ()
"""The disturbances of the call that is made after a disturbed one: none below a scale of 10."""
_ACTING = [(call, state) for call in RUN_CALLS for state in call.next_states]


def _states(call: Call[Any]) -> Iterable[str]:
    """Return the states in which a call is cut short: all of them from a scale of 3, or else one."""
    states = list(call.next_states)
    return states if SCALE >= _ALL_FROM_SCALE else [random.Random(f"{SEED} {call}").choice(states)]


async def run_call_cut_short(h: StoreHarness, call: Call[RunSubject]) -> None:
    """Cancelled at any await, or with its answer lost, a call was made or not; made again it leaves what one leaves."""
    for state in _states(call):
        for moment in MOMENTS:
            h.fault_points += await cut_short(run_arena(h, state), call, moment)


async def schedule_call_cut_short(h: StoreHarness, call: Call[ScheduleSubject]) -> None:
    """Cancelled at any await, or with its answer lost, a call was made or not; made again it leaves what one leaves."""
    for state in _states(call):
        for moment in MOMENTS:
            h.fault_points += await cut_short(schedule_arena(h, state), call, moment)


async def run_call_disturbed(h: StoreHarness, call: Call[RunSubject]) -> None:
    """Disturbed at any statement, a call was made or not; made again it leaves what one leaves; its handle goes on."""
    for state in _states(call):
        for disturbance in DISTURBANCES:
            h.fault_points += await disturb(run_arena(h, state), call, disturbance, again=_AGAIN)


async def schedule_call_disturbed(h: StoreHarness, call: Call[ScheduleSubject]) -> None:
    """Disturbed at any statement, a call was made or not; made again it leaves what one leaves; its handle goes on."""
    for state in _states(call):
        for disturbance in DISTURBANCES:
            h.fault_points += await disturb(schedule_arena(h, state), call, disturbance, again=_AGAIN)


for _run_call in RUN_CALLS:
    _clauses = ("ERROR-2", _run_call.clauses[0])
    clause(*_clauses, each=[_run_call])(run_call_cut_short)
    clause(*_clauses, "ERROR-1", each=[_run_call], needs=["statements"])(run_call_disturbed)
for _schedule_call in SCHEDULE_CALLS:
    _clauses = (_schedule_call.clauses[0], "ERROR-2")
    clause(*_clauses, each=[_schedule_call])(schedule_call_cut_short)
    clause(*_clauses, "ERROR-1", each=[_schedule_call], needs=["statements"])(schedule_call_disturbed)


@clause("DURABLE-1", "ERROR-2", needs=("processes",), capability="durable")
async def process_is_killed(h: StoreHarness) -> None:
    """A process is killed at work: what it was told is there, its last call was made or not, nothing else was made."""
    chosen = random.Random(SEED)
    for _ in range(scaled(2)):
        made = chosen.choices(_ACTING, k=12)
        effects = [await Effect.of(run_arena(h, state), call) for call, state in made]
        subjects = [await make_run(h, state) for _, state in made]
        calls = [(call.name, dataclasses.asdict(subject)) for (call, _), subject in zip(made, subjects, strict=True)]
        after = chosen.randrange(len(calls))
        told = await kill_child(h, {"task": "work", "calls": calls}, after=after, delay_s=0.003 * chosen.random())
        for number, (effect, subject) in enumerate(zip(effects, subjects, strict=True)):
            seen = await effect.arena.glance(h, subject)
            assert number >= told or seen == effect.after, f"{effect.call} was acknowledged, and is lost: {seen}"
            assert number <= told or seen == effect.before, f"{effect.call} was made by nobody: {seen}"
            await effect.check_whole(subject, f"{effect.call} of a process that was killed")
