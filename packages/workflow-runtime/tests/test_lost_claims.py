"""A network that loses the answers to claims parks no healthy run; a run that kills its worker at once is parked."""

from __future__ import annotations

import contextlib
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunStatus, StoreOperationError, StoreUnavailableError, workflow
from workflow_runtime.store import SILENT_CLAIMS_PER_CRASH

if TYPE_CHECKING:
    from conftest import Lab

LEASE = timedelta(seconds=1)


@workflow()
async def healthy(ctx: Context, _: Any) -> str:
    await ctx.sleep(timedelta(0))
    return "done"


@pytest.mark.parametrize("seed", range(5))
async def test_runs_outlive_lost_answers(lab: Lab, seed: int) -> None:
    """Half of all claims are committed and not heard of; four crashes are allowed."""
    rng = random.Random(seed)
    starter = lab.runtime(healthy)
    for number in range(20):
        await starter.start_run(healthy, run_id=f"run-{number}")

    async def lose(verb: str, arguments: dict[str, Any]) -> None:
        if verb.startswith("claim_") and arguments["limit"] and rng.random() < 0.5:
            raise StoreUnavailableError("the answer was lost")

    for _ in range(200):
        store = lab.tapped()
        store.after = lose
        runtime = lab.runtime(healthy, store=store, lease=LEASE, max_crashes=4)
        with contextlib.suppress(StoreUnavailableError):
            await runtime.sweep()
        lab.clock.advance(LEASE)
        if all(run.status.is_terminal for run in lab.data.runs.values()):
            break
    assert {run.status for run in lab.data.runs.values()} == {RunStatus.FINISHED}


async def test_run_that_kills_its_worker_at_once_is_parked(lab: Lab) -> None:
    """Nobody hears of its drivers; the runs that die beside it live on."""

    async def die(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "append_events" or verb.startswith("mark_run"):
            raise StoreOperationError("the process is gone by now")

    await lab.runtime(healthy).start_run(healthy, run_id="run")
    sweeps = 0
    while lab.data.runs["run"].status is not RunStatus.DEAD:
        store = lab.tapped()
        store.before = die
        await lab.runtime(healthy, store=store, lease=LEASE, max_crashes=2).sweep()
        lab.clock.advance(LEASE)
        sweeps += 1
        assert sweeps < 100
    assert sweeps == 2 * SILENT_CLAIMS_PER_CRASH + 1
