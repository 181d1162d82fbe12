"""A crowd of workers that vanish and senders that repeat themselves: every signal is taken once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import ClaimedRun, RunStatus, WorkflowExecutionStore

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import MANY, event
from ..scenarios import claim_due, claim_pending, claim_stale, start_waiting
from ..settings import SEED, scaled
from ..tasks import all_of

_SIGNALS = scaled(8)
"""The signals that each run of the crowd waits for."""
_PATIENCE = 200 * _SIGNALS
"""The sweeps after which a worker gives up. About a tenth is enough."""


@clause("CLAIM-9", "PAUSE-3", "SIGNAL-1", "SIGNAL-4", "LOG-6", "CLAIM-4")
async def nothing_is_lost_in_the_crowd(h: StoreHarness) -> None:
    """Workers that drive, pause, hand over and vanish, and senders that deliver twice: each signal is taken once."""
    handles = await h.handles(6)
    run_ids = [(await start_waiting(h)).run_id for _ in range(6)]
    all_sent = asyncio.Event()

    async def send() -> None:
        await all_of(*(_send(h, handles[n], run_ids, random.Random(SEED + n)) for n in range(2)))
        all_sent.set()

    workers = [_work(h, handles[2 + n], run_ids, random.Random(SEED + 10 + n), all_sent) for n in range(4)]
    await all_of(send(), *workers)
    for run_id in run_ids:
        log = await h.store.read_events(run_id=run_id, limit=MANY)
        taken = [e.payload for e in log if e.kind == "took"]
        assert sorted(taken, key=str) == sorted((str(number) for number in range(1, _SIGNALS + 1)), key=str)
        assert taken == sorted(taken, key=lambda text: int(str(text))), "signals were taken out of order"


async def _send(h: StoreHarness, handle: WorkflowExecutionStore, run_ids: Sequence[str], chosen: random.Random) -> None:
    """Deliver every signal to every run, in random order. The other sender delivers the same ones."""
    plan = [run_id for run_id in run_ids for _ in range(_SIGNALS)]
    chosen.shuffle(plan)
    for place, run_id in enumerate(plan):
        signal_id = f"s{plan[:place].count(run_id)}"
        await handle.deliver_signal(run_id=run_id, signal_id=signal_id, name="go", payload=None, now_ms=h.now_ms)
        await asyncio.sleep(chosen.choice([0, 0, 0.001]))


async def _work(
    h: StoreHarness,
    handle: WorkflowExecutionStore,
    run_ids: Sequence[str],
    chosen: random.Random,
    all_sent: asyncio.Event,
) -> None:
    """Claim runs and move their inboxes to their logs, one event for each entry, until all have finished."""
    sweeps = 0
    while sweeps < _PATIENCE:
        sweeps += all_sent.is_set()  # how long the senders take is a matter of the store's speed
        if await _all_finished(handle, run_ids):
            return
        h.advance(1)
        claim = chosen.choice([claim_pending, claim_pending, claim_stale, claim_due])
        batch = await claim(h, store=handle, limit=2, lease_ms=200)
        for taken in batch.claims:
            await _drive(h, handle, taken, chosen)
        await asyncio.sleep(0)
    found = [(run.run_id, run.status, run.due_at_ms) for run in (await handle.list_runs(limit=MANY)).runs]
    raise AssertionError(f"{_PATIENCE} sweeps after the last delivery some runs still lack signals: {found}")


async def _all_finished(handle: WorkflowExecutionStore, run_ids: Sequence[str]) -> bool:
    return dict(await handle.count_runs()).get(RunStatus.FINISHED, 0) == len(run_ids)


async def _drive(h: StoreHarness, handle: WorkflowExecutionStore, taken: ClaimedRun, chosen: random.Random) -> None:
    holder = LeaseHolder.of(h, taken, handle)
    numbers = [entry.inbox_seq for entry in taken.inbox]
    notes = [event(str(number), kind="took") for number in numbers]
    fate = chosen.choice(["vanish", "append", "pause", "pause", "pause", "release"])
    try:
        if holder.next_index + len(notes) == _SIGNALS:
            await holder.finish(events=notes, taken_inbox=numbers)
        elif fate == "append":
            await holder.append(events=notes, taken_inbox=numbers, lease_ms=200)
        elif fate == "pause":
            timers = {"t": h.now_ms + 50} if chosen.random() < 0.3 else {}
            await holder.pause(events=notes, taken_inbox=numbers, signals=["go"], timers=timers)
        elif fate == "release":
            await holder.release()
    except LeaseLostError:
        return
