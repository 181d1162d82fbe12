"""Every verb that changes a run against every other, at once, on one run and on many."""

from __future__ import annotations

import random

from ..calls import Call
from ..cases import clause
from ..harness import StoreHarness
from ..meetings import all_meetings, sample_meetings
from ..orders import race
from ..run_calls import RUN_CALLS, RUN_STATES, RunSubject
from ..run_states import run_arena
from ..settings import SEED, scaled

_MEETINGS = sample_meetings(all_meetings(RUN_CALLS, RUN_STATES))
_ROUNDS = scaled(2)


async def calls_to_one_run(h: StoreHarness, call: Call[RunSubject]) -> None:
    """At once with any other call, in any state of the run, the outcome is that of one of their orders."""
    chosen = random.Random(SEED)
    for meeting in _MEETINGS[call.name]:
        arena = run_arena(h, meeting.state)
        await race(arena, [meeting.first, meeting.second], rounds=_ROUNDS, chosen=chosen)


for _call in RUN_CALLS:
    clause(*_call.clauses, each=[_call])(calls_to_one_run)
