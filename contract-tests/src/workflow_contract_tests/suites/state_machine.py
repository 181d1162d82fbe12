"""Random sequences of verbs, answer by answer beside the model of the contract."""

from __future__ import annotations

from ..cases import clause
from ..harness import StoreHarness
from ..settings import SCALE, SEED
from ..state_machine import Search, emptied

_OPERATIONS = round(2_000 * SCALE)
"""Calls of one case, reads that compare included."""
_SECONDS = 20 * max(1.0, SCALE)
"""A very slow store plays as much as fits. All others play all, so that a verdict does not hang on the machine."""


@clause("STATUS-1")
async def sequences_about_runs_answer_as_the_model(h: StoreHarness) -> None:
    """After any sequence of verbs about runs every answer, and all that can be read, is as the clauses say."""
    await Search(
        part="runs", freshly=emptied(h, schedules=False), seed=SEED, operations=_OPERATIONS, seconds=_SECONDS
    ).run()


@clause("SCHEDULE-9")
async def sequences_about_schedules_answer_as_the_model(h: StoreHarness) -> None:
    """After any sequence of verbs about schedules and their runs every answer is as the clauses say."""
    await Search(
        part="schedules", freshly=emptied(h, schedules=True), seed=SEED, operations=_OPERATIONS, seconds=_SECONDS
    ).run()
