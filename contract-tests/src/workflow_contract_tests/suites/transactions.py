"""TX: a business write and its record are one unit, for stores that declare `transactions`."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import Any, cast

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, LogConflictError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Appended, SupportsTransactions, TransactionWrite, WorkflowExecutionStore

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event, events
from ..scenarios import record, start, start_full, unchanged
from ..settings import SEED, scaled
from ..tasks import all_of
from ..verbs import APPEND_EVENTS
from .fencing import ENDINGS

_ROUNDS = scaled(6)


class _Work:
    """A function of a transaction, which counts its calls and writes one business row."""

    def __init__(
        self,
        holder: LeaseHolder,
        key: str,
        *,
        before: Callable[[], Awaitable[None]] | None = None,
        after: Callable[[], Awaitable[None]] | None = None,
        **write: Any,
    ) -> None:
        self.calls = 0
        self._holder = holder
        self._key = key
        self._before = before
        self._after = after
        self._write = write

    async def __call__(self, tx: Any) -> TransactionWrite:
        self.calls += 1
        if self._before is not None:
            await self._before()
        await self._holder.harness.write_business(tx, self._key)
        if self._after is not None:
            await self._after()
        holder = self._holder
        fields: dict[str, Any] = {
            "expected_next_index": holder.next_index,
            "events": (event('"paid"', step_id="pay"),),
            "now_ms": holder.harness.now_ms,
            "lease_ms": LEASE_MS,
        }
        return TransactionWrite(**(fields | self._write))


async def _transact(
    holder: LeaseHolder, work: _Work, *, store: WorkflowExecutionStore | None = None, operation_id: str | None = None
) -> Appended:
    # On a handle of its own: calls of the function on another handle must not wait for this one.
    transactional = cast("SupportsTransactions", store or (await holder.harness.handles(3))[2])
    appended = await transactional.append_in_transaction(
        run_id=holder.run_id,
        lease_token=holder.token,
        operation_id=operation_id or holder.harness.new_id("op"),
        work=work,
    )
    holder.next_index, holder.seen = appended.next_index, appended.inbox_seq
    return appended


def _everything(holder: LeaseHolder) -> dict[str, Any]:
    taken = APPEND_EVENTS.everything(holder)
    fields = ("events", "taken_inbox", "set_timers", "removed_timers")
    return {name: tuple(taken[name]) for name in fields}


@clause("TX-1", "LOG-3", capability="transactions")
async def business_write_and_append_are_one_unit(h: StoreHarness) -> None:
    """The row, the events, the timers, the taken entry and the renewed lease are there together, and not before."""
    holder = await start_full(h)
    before = await record(h, holder.run_id)
    h.advance(5_000)

    async def look() -> None:
        assert await h.read_business() == [], "a row is seen before its transaction has ended"
        assert await record(h, holder.run_id) == before, "the run is changed before the transaction has ended"

    appended = await _transact(holder, _Work(holder, "order-7", after=look, **_everything(holder)))
    assert (appended.next_index, appended.inbox_seq, appended.cancel_requested) == (3, 1, False)
    assert appended.lease_expires_at_ms == h.now_ms + LEASE_MS
    assert await h.read_business() == ["order-7"]
    log = await h.second.read_events(run_id=holder.run_id, limit=MANY)
    assert [(e.index, e.payload) for e in log] == [(0, '"e0"'), (1, '"e1"'), (2, '"e2"')]
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [timer.timer_id for timer in execution.timers] == ["new"]
    assert execution.inbox == ()
    assert execution.run.lease_expires_at_ms == appended.lease_expires_at_ms


@clause("TX-1", "LOG-1", capability="transactions")
async def transactions_and_appends_take_turns(h: StoreHarness) -> None:
    """A run may be written by transactions and by appends in any order; a transaction without an event is one too."""
    holder = await start(h)
    await holder.append('"a"')
    await _transact(holder, _Work(holder, "one"))
    await holder.append('"b"')
    await _transact(holder, _Work(holder, "two", events=()))
    await _transact(holder, _Work(holder, "three"))
    await holder.finish()
    log = await h.second.read_events(run_id=holder.run_id, limit=MANY)
    assert [e.payload for e in log] == ['"a"', '"paid"', '"b"', '"paid"']
    assert await h.read_business() == ["one", "three", "two"]


@clause("TX-2", "FENCE-1", each=ENDINGS, capability="transactions")
async def lost_lease_does_not_even_begin_after(h: StoreHarness, ending: str) -> None:
    """With a token that is no longer the current one the function is not called and nothing is written."""
    holder = await start_full(h)
    await ENDINGS[ending](h, holder)
    work = _Work(holder, "late", **_everything(holder))
    async with unchanged(h, holder.run_id, after="a late transaction"):
        with refused(LeaseLostError, f"a transaction with the token from before the {ending}"):
            await _transact(holder, work)
    assert (work.calls, await h.read_business()) == (0, [])


@clause("TX-2", "FENCE-1", each=ENDINGS, capability="transactions")
async def lease_lost_meanwhile_undoes_the_business_write_after(h: StoreHarness, ending: str) -> None:
    """A lease that is lost while the function runs leaves nothing of the function."""
    holder = await start_full(h)
    arguments = _everything(holder)
    seen: dict[str, Any] = {}

    async def lose() -> None:
        await ENDINGS[ending](h, holder)
        seen["run"] = await h.second.load_run(run_id=holder.run_id)

    with refused(LeaseLostError, f"a transaction that was overtaken by the {ending}"):
        await _transact(holder, _Work(holder, "late", before=lose, expected_next_index=1, **arguments))
    assert await h.read_business() == []
    assert await h.second.load_run(run_id=holder.run_id) == seen["run"]


@clause("TX-2", "FENCE-2", capability="transactions")
async def expired_holder_may_still_commit(h: StoreHarness) -> None:
    """A lease that runs out while the function runs, and that nobody takes, is renewed by the commit."""
    holder = await start(h, lease_ms=1_000)

    async def dawdle() -> None:
        h.advance(60_000)

    appended = await _transact(holder, _Work(holder, "slow", before=dawdle))
    assert appended.lease_expires_at_ms == h.now_ms + LEASE_MS
    assert await h.read_business() == ["slow"]


@clause("TX-3", "LOG-1", each=("too-short", "too-long"), capability="transactions")
async def log_of_another_length_undoes_the_business_write(h: StoreHarness, length: str) -> None:
    """An expected index that is not the length of the log is refused, and the row is gone."""
    holder = await start_full(h)
    wrong = holder.next_index + {"too-short": -1, "too-long": 1}[length]
    async with unchanged(h, holder.run_id, after="a transaction at a wrong index"):
        with refused(LogConflictError, "a transaction at a wrong index"):
            await _transact(holder, _Work(holder, "misplaced", expected_next_index=wrong))
    assert await h.read_business() == []


@clause("TX-3", "LOG-5", capability="transactions")
async def log_that_grows_meanwhile_undoes_the_business_write(h: StoreHarness) -> None:
    """An append that comes in between takes the index away."""
    holder = await start(h)

    async def append() -> None:
        await h.second.append_events(**holder.append_arguments())

    with refused(LogConflictError, "a transaction whose index was taken meanwhile"):
        await _transact(holder, _Work(holder, "overtaken", before=append, expected_next_index=0))
    assert await h.read_business() == []
    assert (await record(h, holder.run_id)).next_index == 1


class _OutOfStockError(Exception):
    """An error of the application."""


_ERRORS: dict[str, Callable[[], Exception]] = {
    "of-the-business": lambda: _OutOfStockError("no more of these"),
    "like-the-store-s": lambda: StoreUnavailableError("another store, which the function uses"),
    "like-a-lost-lease": lambda: LeaseLostError("another run"),
}


@clause("TX-4", each=_ERRORS, capability="transactions")
async def error_undoes_the_business_write(h: StoreHarness, kind: str) -> None:
    """An error of the function comes out as the very same error, and nothing stays."""
    holder = await start_full(h)
    mishap = _ERRORS[kind]()

    async def fail() -> None:
        raise mishap

    work = _Work(holder, "undone", after=fail)
    async with unchanged(h, holder.run_id, after="a transaction that failed"):
        with refused(type(mishap), "a transaction whose function raises") as refusal:
            await _transact(holder, work)
    assert refusal.error is mishap, f"the error came out as {refusal.error!r}"
    assert (work.calls, await h.read_business()) == (1, [])
    await _transact(holder, _Work(holder, "second-try"))
    assert await h.read_business() == ["second-try"]


@clause("TX-4", "PAYLOAD-3", capability="transactions")
async def bad_write_undoes_the_business_write(h: StoreHarness) -> None:
    """A transaction with values that `append_events` refuses is refused too, and the row is gone."""
    holder = await start_full(h)
    too_large = JsonText('"' + "x" * h.store.capabilities.max_payload_bytes + '"')
    bad: list[dict[str, Any]] = [{"events": tuple(events(too_large))}, {"now_ms": -1}, {"lease_ms": 0}]
    async with unchanged(h, holder.run_id, after="a transaction with a bad write"):
        for fields in bad:
            with refused(InvalidArgumentError, f"a transaction with a bad {next(iter(fields))}"):
                await _transact(holder, _Work(holder, "undone", **fields))
    assert await h.read_business() == []


@clause("TX-4", capability="transactions")
async def cancellation_undoes_the_business_write(h: StoreHarness) -> None:
    """A call that is cancelled while the function runs leaves nothing, and nobody has to wait for it."""
    holder = await start_full(h)
    written, never = asyncio.Event(), asyncio.Event()

    async def hang() -> None:
        written.set()
        await never.wait()

    async with unchanged(h, holder.run_id, after="a transaction that was cancelled"):
        call = asyncio.ensure_future(_transact(holder, _Work(holder, "undone", after=hang)))
        await written.wait()
        call.cancel()
        await asyncio.wait([call])
        assert call.cancelled()
    assert await h.read_business() == []
    await holder.append('"next"')
    await _transact(holder, _Work(holder, "second-try"))
    assert await h.read_business() == ["second-try"]


@clause("TX-5", "OP-1", "OP-2", capability="transactions")
async def repeat_does_not_call_the_function(h: StoreHarness) -> None:
    """Repeating the last write gives its answer again, whatever came from outside meanwhile."""
    holder = await start_full(h)
    work = _Work(holder, "once", **_everything(holder))
    first = await _transact(holder, work, operation_id="the-operation")
    await holder.signal("go", "s2")
    await holder.heartbeat()
    async with unchanged(h, holder.run_id, after="the repeated transaction"):
        for handle in await h.handles(3):
            repeat = await _transact(holder, work, store=handle, operation_id="the-operation")
            assert repeat.next_index == first.next_index, f"the repeat answered {repeat}, the first time {first}"
    assert (work.calls, await h.read_business()) == (1, ["once"])


@clause("TX-5", "OP-1", capability="transactions")
async def repeat_comes_before_the_fence(h: StoreHarness) -> None:
    """A repeat whose lease somebody took meanwhile still learns that it was done."""
    holder = await start(h)
    work = _Work(holder, "once")
    first = await _transact(holder, work, operation_id="the-operation")
    await ENDINGS["steal"](h, holder)
    repeat = await _transact(holder, work, operation_id="the-operation")
    assert repeat.next_index == first.next_index
    assert (work.calls, await h.read_business()) == (1, ["once"])


@clause("TX-5", capability="transactions")
async def twins_are_done_once(h: StoreHarness) -> None:
    """Of one operation sent twice at the same time one call's writes stay, and both learn of them."""
    for number in range(_ROUNDS):
        holder = await start(h)
        twins = [_Work(holder, f"twin-{number}", expected_next_index=0) for _ in range(2)]
        calls = zip(twins, await h.handles(2), strict=True)
        answers = await all_of(*(_transact(holder, w, store=s, operation_id=f"op-{number}") for w, s in calls))
        found = [answer.next_index for answer in answers]
        assert found == [1, 1], f"of one operation sent twice at the same time both calls answer [1, 1], not {found}"
        length = (await record(h, holder.run_id)).next_index
        assert length == 1, f"one operation sent twice at the same time is appended once, not {length} times"
        kept = (await h.read_business()).count(f"twin-{number}")
        assert kept == 1, f"of one operation sent twice at the same time one call's writes stay, not {kept}"


@clause("TX-6", "TX-1", capability="transactions")
async def many_runs_transact_at_once(h: StoreHarness) -> None:
    """Runs transact while signals and heartbeats arrive, over several handles: each row and record is there once."""
    handles = await h.handles(4)
    holders = [await start(h) for _ in handles]
    transacting = [_transact_often(holder, handle) for holder, handle in zip(holders, handles, strict=True)]
    disturbing = [_disturb(holder, random.Random(SEED + n)) for n, holder in enumerate(holders)]
    await all_of(*transacting, *disturbing)
    keys = [f"{holder.run_id}/{number}" for holder in holders for number in range(_ROUNDS)]
    assert await h.read_business() == sorted(keys)
    for holder in holders:
        log = await h.store.read_events(run_id=holder.run_id, limit=MANY)
        assert [e.payload for e in log] == [f"{number}" for number in range(_ROUNDS)]


async def _transact_often(holder: LeaseHolder, handle: WorkflowExecutionStore) -> None:
    for number in range(_ROUNDS):
        await _transact(
            holder, _Work(holder, f"{holder.run_id}/{number}", events=tuple(events(f"{number}"))), store=handle
        )


async def _disturb(holder: LeaseHolder, chosen: random.Random) -> None:
    for _ in range(_ROUNDS):
        await holder.signal()
        await holder.heartbeat()
        await asyncio.sleep(chosen.choice([0, 0.001, 0.003]))
