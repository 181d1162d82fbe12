"""Long histories of a few runs: whatever workers do at random, an order of their calls explains all answers."""

from __future__ import annotations

import random
from collections.abc import Sequence

from ..cases import clause
from ..children import run_children
from ..harness import StoreHarness
from ..races.histories import Wanderer
from ..races.linearizability import Operation, unexplained
from ..scenarios import create
from ..settings import PROCESSES, SEED, scaled
from ..tasks import all_of

_WORKERS = 4
_RUNS = 3
_CALLS = scaled(60)


@clause("LOG-5", "RUN-6", "LEASE-1", "FENCE-1", "FENCE-2", "PAUSE-2", "PAUSE-3", "SIGNAL-2", "SIGNAL-4", "CANCEL-1")
async def history_has_an_order(h: StoreHarness) -> None:
    """For all that workers were told of a run at the same time there is an order of their calls."""
    run_ids = [(await create(h)).run_id for _ in range(_RUNS)]
    handles = await h.handles(_WORKERS)
    workers = [
        Wanderer(f"worker-{number}", handle, h.now_ms, random.Random(SEED + number))
        for number, handle in enumerate(handles)
    ]
    await all_of(*(worker.wander(run_ids, _CALLS) for worker in workers))
    for run_id in run_ids:
        _check(run_id, [operation for worker in workers for operation in worker.history[run_id]])


@clause("LOG-5", "FENCE-1", "PAUSE-3", "SIGNAL-4", "CANCEL-1", needs=("processes",))
async def history_of_processes_has_an_order(h: StoreHarness) -> None:
    """For all that processes were told of a run at the same time there is an order of their calls."""
    run_ids = [(await create(h)).run_id for _ in range(_RUNS)]
    order = {"task": "wander", "run_ids": run_ids, "calls": _CALLS}
    results = await run_children(h, [order] * PROCESSES)
    for run_id in run_ids:
        notes = [note for result in results for note in result.get(run_id, ())]
        _check(run_id, [Operation(**(note | {"answer": tuple(note["answer"])})) for note in notes])


def _check(run_id: str, history: Sequence[Operation]) -> None:
    problem = unexplained(history)
    assert problem is None, f"no order of {len(history)} calls to {run_id} explains their answers:\n{problem}"
