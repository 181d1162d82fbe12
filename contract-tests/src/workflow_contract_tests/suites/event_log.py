"""LOG: an append is a compare-and-swap, and the event log has no gaps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from workflow_runtime.errors import LogConflictError, PayloadTooLargeError
from workflow_runtime.store import NewEvent, Timer

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, event, events
from ..scenarios import claim, create, record, show_life, start, start_full, unchanged
from ..verbs import APPEND_EVENTS, WRITES_WITH_EVENTS, LeaseVerb


@clause("LOG-1")
async def append_is_a_compare_and_swap(h: StoreHarness) -> None:
    """Events get the indexes from the expected one on; any other expectation is refused and writes nothing."""
    holder = await start(h)
    assert (await holder.append("0", "1")).next_index == 2
    for wrong in (0, 1, 3, 99):
        async with unchanged(h, holder.run_id, after=f"an append at index {wrong}"):
            with refused(LogConflictError, f"an append at {wrong} to a log of 2") as refusal:
                await holder.append('"x"', '"y"', expected_next_index=wrong)
        assert (refusal.error.expected_next_index, refusal.error.actual_next_index) == (wrong, 2)
    assert (await holder.append("2")).next_index == 3
    log = await h.second.read_events(run_id=holder.run_id, limit=10)
    assert [(e.index, e.payload) for e in log] == [(0, "0"), (1, "1"), (2, "2")]


@clause("LOG-3", "LEASE-1", each=("empty", "with events"))
async def append_never_shortens_the_lease(h: StoreHarness, what: str) -> None:
    """An append renews the lease exactly, but never to an earlier time than the lease has."""
    holder = await start(h, lease_ms=LEASE_MS)
    new = [] if what == "empty" else [event("1")]
    end = h.now_ms + LEASE_MS
    for late in ({"lease_ms": 1}, {"now_ms": h.now_ms - 60_000, "lease_ms": LEASE_MS}):
        assert (await holder.append(events=new, **late)).lease_expires_at_ms == end
        assert (await record(h, holder.run_id)).lease_expires_at_ms == end
    renewed = await holder.append(events=new, now_ms=h.advance(5), lease_ms=LEASE_MS)
    assert renewed.lease_expires_at_ms == end + 5
    assert (await record(h, holder.run_id)).lease_expires_at_ms == end + 5


@clause("LOG-1", "PAYLOAD-2")
async def events_keep_every_field(h: StoreHarness) -> None:
    """Kind, step id, payload (or none) and time of each event come back."""
    holder = await start(h)
    given = [
        NewEvent(kind="step-completed", step_id="pay #1 ✓", payload=event('{"a":1}').payload),
        NewEvent(kind="started"),
        NewEvent(kind="n", payload=event("null").payload),
    ]
    await holder.append(events=given, now_ms=h.advance(7))
    log = await h.second.read_events(run_id=holder.run_id, limit=10)
    assert [(e.index, e.kind, e.step_id, e.payload, e.created_at_ms) for e in log] == [
        (0, "step-completed", "pay #1 ✓", '{"a":1}', h.now_ms),
        (1, "started", None, None, h.now_ms),
        (2, "n", None, "null", h.now_ms),
    ]


@clause("LOG-2", "PAYLOAD-3")
async def refused_append_leaves_no_prefix(h: StoreHarness) -> None:
    """An append whose last event is refused writes none of its events."""
    holder = await start_full(h)
    too_large = '"' + "x" * h.store.capabilities.max_payload_bytes + '"'
    for verb in WRITES_WITH_EVENTS:
        async with unchanged(h, holder.run_id, after=f"a refused {verb}"):
            with refused(PayloadTooLargeError, f"{verb} with a payload that is too large"):
                await verb.of(h.store)(**verb.everything(holder, events=events("1", "2", too_large)))


@clause("LOG-2", "ERROR-1")
async def abandoned_append_is_whole_or_nothing(h: StoreHarness) -> None:
    """An append whose caller is cancelled half-way is all there or not at all, and the handle works on."""
    holder = await start(h)
    for patience in range(12):
        # Something for a handle that keeps a copy of the data to catch up with, when it is interrupted.
        await holder.signal()
        arguments = holder.append_arguments(events=events(*(str(n) for n in range(5))))
        task = asyncio.create_task(holder.store.append_events(**arguments))
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        # The same operation again: what a worker does after a lost answer. It must come to one append, not two.
        answer = await holder.store.append_events(**arguments)
        assert answer.next_index == holder.next_index + 5
        holder.next_index = answer.next_index
    log = await h.second.read_events(run_id=holder.run_id, limit=1_000)
    assert [e.payload for e in log] == [str(n) for n in range(5)] * 12
    for handle in (h.store, h.second):
        inbox = await handle.read_inbox(run_id=holder.run_id, limit=99)
        assert [entry.inbox_seq for entry in inbox] == list(range(1, 13))


@clause("LOG-2")
async def many_events_in_one_append(h: StoreHarness) -> None:
    """An append of more events than a database takes bound values for is one unit like any other."""
    holder = await start(h)
    answer = await holder.append(*(str(n) for n in range(250)))
    assert answer.next_index == 250
    log = await h.second.read_events(run_id=holder.run_id, limit=1_000)
    assert [(e.index, e.payload) for e in log] == [(n, str(n)) for n in range(250)]


@clause("LOG-3")
async def append_renews_sets_timers_and_takes(h: StoreHarness) -> None:
    """One append writes events, sets and removes timers, takes inbox entries and renews the lease."""
    holder = await start(h, lease_ms=1_000)
    await holder.signal("go", "s1")
    await holder.signal("go", "s2")
    await holder.append(events=[], set_timers=[Timer(timer_id="a", fire_at_ms=h.now_ms + 1)])
    answer = await holder.append(
        "1",
        set_timers=[Timer(timer_id="b", fire_at_ms=h.now_ms + 2), Timer(timer_id="c", fire_at_ms=h.now_ms + 3)],
        removed_timers=["a", "never-there"],
        taken_inbox=[1],
        lease_ms=90_000,
        now_ms=h.advance(500),
    )
    assert answer.lease_expires_at_ms == h.now_ms + 90_000
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [t.timer_id for t in execution.timers] == ["b", "c"]
    assert [e.delivery_id for e in execution.inbox] == ["s2"]
    assert execution.run.lease_expires_at_ms == h.now_ms + 90_000
    assert execution.run.updated_at_ms == h.now_ms


@clause("LOG-3")
async def refused_append_renews_nothing(h: StoreHarness) -> None:
    """A conflict leaves timers, inbox and lease as they were."""
    holder = await start_full(h)
    for wrong in (0, 2, 5):
        arguments = APPEND_EVENTS.everything(holder, expected_next_index=wrong, lease_ms=LEASE_MS * 9)
        async with unchanged(h, holder.run_id, after="a conflicting append"):
            with refused(LogConflictError, f"an append at {wrong} to a log of 1"):
                await h.store.append_events(**arguments)


@clause("LOG-3", "DEAD-3")
async def append_with_events_clears_the_crash_count(h: StoreHarness) -> None:
    """The crash count is zero again after an append of an event, and not after an append of none."""
    first = await start(h, lease_ms=1_000)
    await show_life(first)
    h.advance(1_000)
    second = await claim(h, first.run_id, lease_ms=LEASE_MS)
    assert second.claim.run.crashes == 1
    await second.append(events=[])
    assert (await record(h, first.run_id)).crashes == 1, "an append without an event is no progress"
    await second.append("1")
    assert (await record(h, first.run_id)).crashes == 0


@clause("LOG-4", "CANCEL-3")
async def append_answers_with_inbox_and_cancel(h: StoreHarness) -> None:
    """The answer to an append has the inbox number and the cancel flag."""
    holder = await start(h)
    first = await holder.append("0")
    assert (first.next_index, first.inbox_seq, first.cancel_requested) == (1, 0, False)
    await holder.signal()
    await holder.signal()
    second = await holder.append("1")
    assert (second.next_index, second.inbox_seq, second.cancel_requested) == (2, 2, False)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    third = await holder.append(events=[])
    assert (third.next_index, third.inbox_seq, third.cancel_requested) == (2, 3, True)


@clause("LOG-6", "SIGNAL-6")
async def taken_entries_are_not_brought_again(h: StoreHarness) -> None:
    """An entry that was taken comes neither with a claim nor with `read_inbox` nor with `load_execution`."""
    holder = await start(h)
    for number in range(1, 5):
        await holder.signal("go", f"s{number}")
    await holder.append("1", taken_inbox=[1, 3])
    assert [e.inbox_seq for e in await h.second.read_inbox(run_id=holder.run_id, limit=10)] == [2, 4]
    await holder.append("2", taken_inbox=[2])
    await holder.release()
    again = await claim(h, holder.run_id)
    assert [e.delivery_id for e in again.claim.inbox] == ["s4"]
    assert again.claim.run.inbox_seq == 4, "taking an entry must not move the inbox number"


@clause("LOG-7")
async def read_events_pages(h: StoreHarness) -> None:
    """`read_events` gives the log from an index on, in order, at most `limit` events."""
    holder = await start(h)
    await holder.append(*(str(n) for n in range(7)))
    read = h.second.read_events
    assert [e.index for e in await read(run_id=holder.run_id, limit=3)] == [0, 1, 2]
    assert [e.index for e in await read(run_id=holder.run_id, limit=3, from_index=5)] == [5, 6]
    assert await read(run_id=holder.run_id, limit=3, from_index=7) == ()
    assert await read(run_id=holder.run_id, limit=3, from_index=10**9) == ()
    assert await read(run_id=holder.run_id, limit=0) == ()
    assert await read(run_id="nobody", limit=3) == ()
    queued = await create(h)
    assert await read(run_id=queued.run_id, limit=3) == ()


@clause("LOG-7", "CLAIM-2")
async def history_is_bounded_in_bytes(h: StoreHarness) -> None:
    """A page holds at most `max_bytes` of payload, but at least one event."""
    holder = await start(h)
    ten_bytes = '"12345678"'
    await holder.append(*[ten_bytes] * 6)
    expected = [(30, [0, 1, 2]), (39, [0, 1, 2]), (29, [0, 1]), (10, [0]), (1, [0]), (0, [0])]
    for max_bytes, indexes in expected:
        page = await h.second.read_events(run_id=holder.run_id, limit=100, max_bytes=max_bytes)
        assert [e.index for e in page] == indexes, f"max_bytes={max_bytes}"
        execution = await h.second.load_execution(run_id=holder.run_id, history_bytes=max_bytes)
        assert execution is not None
        assert [e.index for e in execution.history] == indexes, f"history_bytes={max_bytes}"
    tail = await h.second.read_events(run_id=holder.run_id, limit=100, from_index=4, max_bytes=10)
    assert [e.index for e in tail] == [4]
    assert await h.second.read_events(run_id=holder.run_id, limit=0, max_bytes=10) == ()


_LogEnd: TypeAlias = Callable[[StoreHarness, LeaseHolder, NewEvent], Awaitable[str]]


def _written_by(verb: LeaseVerb) -> _LogEnd:
    async def write(h: StoreHarness, holder: LeaseHolder, last: NewEvent) -> str:
        await verb.of(h.store)(**verb.arguments(holder, events=[last]))
        return holder.run_id

    return write


async def _written_by_retry(h: StoreHarness, holder: LeaseHolder, last: NewEvent) -> str:
    await holder.fail(events=[])
    await h.store.retry_run(run_id=holder.run_id, event=last, now_ms=h.now_ms)
    return holder.run_id


async def _written_by_fork(h: StoreHarness, holder: LeaseHolder, last: NewEvent) -> str:
    fork = h.new_id("fork")
    operation_id = h.new_id("op")
    await h.store.fork_run(
        run_id=holder.run_id, new_run_id=fork, from_index=1, event=last, operation_id=operation_id, now_ms=h.now_ms
    )
    return fork


_LOG_ENDS: dict[str, _LogEnd] = {
    **{verb.name: _written_by(verb) for verb in WRITES_WITH_EVENTS},
    "retry_run": _written_by_retry,
    "fork_run": _written_by_fork,
}
"""Writes an event at index 1, and returns the id of the run that has it."""


@clause("LOG-7", each=_LOG_ENDS)
async def bytes_of_each_event_count(h: StoreHarness, verb: str) -> None:
    """Whichever verb wrote an event, its payload counts in a page, and an event without one counts nothing."""
    for payload, size in ((None, 0), ('"12345678"', 10)):
        holder = await start(h)
        await holder.append('"a"')
        run_id = await _LOG_ENDS[verb](h, holder, event(payload))
        page = await h.second.read_events(run_id=run_id, limit=9, max_bytes=3 + size)
        assert [e.payload for e in page] == ['"a"', payload]
        if payload is not None:
            assert len(await h.second.read_events(run_id=run_id, limit=9, max_bytes=3 + size - 1)) == 1
