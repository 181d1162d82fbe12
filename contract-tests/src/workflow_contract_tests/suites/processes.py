"""Races between processes: a store may keep a rule in one event loop and break it between two machines."""

from __future__ import annotations

from workflow_runtime.payloads import decode_json, encode_json
from workflow_runtime.store import RunStatus

from ..cases import clause
from ..children import run_children
from ..harness import StoreHarness
from ..samples import MANY
from ..scenarios import record, start, start_waiting
from ..settings import PROCESSES, scaled
from ..verbs import CLAIM_VERBS, ClaimVerb

_MANY_BYTES = 10**9


@clause("RUN-4", "RUN-2", needs=("processes",))
async def processes_create_one_run_each_id(h: StoreHarness) -> None:
    """Of the processes that create one run id, exactly one creates it, and its lease is the run's."""
    run_ids = [f"run-{number}" for number in range(scaled(40))]
    results = await run_children(h, [{"task": "create", "run_ids": run_ids}] * PROCESSES)
    for run_id in run_ids:
        winners = [number for number, tokens in enumerate(results) if tokens[run_id] is not None]
        assert len(winners) == 1, f"{run_id} was created by the processes {winners}"
        run = await record(h, run_id)
        assert (run.lease_owner, decode_json(run.input)) == (f"process-{winners[0]}", f"process-{winners[0]}")


@clause("CLAIM-4", "TIMER-2", needs=("processes",), each=CLAIM_VERBS)
async def processes_claim_each_run_once(h: StoreHarness, verb: ClaimVerb) -> None:
    """Processes that claim together get every run, and none of them twice."""
    count = scaled(60)
    for _ in range(count):
        await verb.make_ready(h, h.now_ms + 1)
    h.advance(10)
    results = await run_children(h, [{"task": "claim", "verb": verb.name}] * PROCESSES)
    claimed = [run_id for result in results for run_id in result]
    assert len(claimed) == count, f"{count} runs were claimed {len(claimed)} times"
    assert len(set(claimed)) == count


@clause("LOG-5", "LOG-2", needs=("processes",))
async def processes_append_without_gaps(h: StoreHarness) -> None:
    """Processes that append to one log with one token win different indexes, and every append is whole."""
    holder = await start(h, lease_ms=600_000)
    count = scaled(15)
    order = {"task": "append", "run_id": holder.run_id, "token": holder.token, "count": count}
    results = await run_children(h, [order] * PROCESSES)
    log = await h.store.read_events(run_id=holder.run_id, limit=10_000, max_bytes=_MANY_BYTES)
    assert [event.index for event in log] == list(range(2 * count * PROCESSES))
    for number, won in enumerate(results):
        for index in won:
            pair = [decode_json(event.payload) for event in log[index : index + 2] if event.payload is not None]
            assert pair == [[f"process-{number}", 0], [f"process-{number}", 1]]


@clause("SIGNAL-2", "SIGNAL-4", needs=("processes",))
async def processes_deliver_each_signal_once(h: StoreHarness) -> None:
    """Processes that deliver the same signals put each into the inbox once, numbered without gaps."""
    waiting = await start_waiting(h)
    signal_ids = [f"signal-{number}" for number in range(scaled(40))]
    order = {"task": "deliver", "run_id": waiting.run_id, "signal_ids": signal_ids}
    results = await run_children(h, [order] * PROCESSES)
    numbers = sorted(number for result in results for number in result.values())
    assert numbers == list(range(1, len(signal_ids) + 1)), "a signal was accepted twice, or a number is missing"
    inbox = await h.store.read_inbox(run_id=waiting.run_id, limit=MANY, max_bytes=_MANY_BYTES)
    assert [entry.inbox_seq for entry in inbox] == numbers
    acknowledged = {signal_id: number for result in results for signal_id, number in result.items()}
    assert {entry.delivery_id: entry.inbox_seq for entry in inbox} == acknowledged
    assert (await record(h, waiting.run_id)).status == "queued"


@clause("PAUSE-3", "SIGNAL-1", "CLAIM-9", needs=("processes",))
async def processes_lose_no_wake_up(h: StoreHarness) -> None:
    """A run that pauses while other processes deliver gets every signal, once: it is never parked for good."""
    waiting = await start_waiting(h)
    signal_ids = [f"signal-{number}" for number in range(scaled(40))]
    half = len(signal_ids) // 2
    deliver = {"task": "deliver", "run_id": waiting.run_id}
    collect = {"task": "collect", "run_id": waiting.run_id, "count": len(signal_ids)}
    parts = [deliver | {"signal_ids": signal_ids[:half]}, deliver | {"signal_ids": signal_ids[half:]}]
    *acknowledged, _ = await run_children(h, [*parts, collect])
    assert sum(len(numbers) for numbers in acknowledged) == len(signal_ids)
    run = await record(h, waiting.run_id)
    assert run.status is RunStatus.FINISHED, f"the run never got all its signals; it is {run}"
    log = await h.store.read_events(run_id=waiting.run_id, limit=MANY, max_bytes=_MANY_BYTES)
    taken = [decode_json(event.payload) for event in log if event.payload is not None]
    assert sorted(taken) == sorted(signal_ids)


@clause("SCHEDULE-9", "SCHEDULE-13", needs=("processes",))
async def processes_fire_each_tick_once(h: StoreHarness) -> None:
    """Processes that claim ticks together start each tick's run once and skip none."""
    ticks = scaled(6)
    for number in range(4):
        await h.store.upsert_schedule(
            schedule_id=f"s{number}",
            workflow_id="w",
            workflow_version="1",
            spec=encode_json({"every": 1}),
            overlap_policy="allow",
            input=encode_json(None),
            next_fire_at_ms=h.now_ms,
            now_ms=h.now_ms,
        )
    last = h.now_ms + ticks - 1
    h.advance(1_000)
    results = await run_children(h, [{"task": "ticks", "until_ms": last}] * PROCESSES)
    started = sorted(run_id for result in results for run_id in result)
    expected = sorted(f"s{number}@{last - tick}" for number in range(4) for tick in range(ticks))
    assert started == expected
    assert len((await h.store.list_runs(limit=MANY)).runs) == len(expected)
