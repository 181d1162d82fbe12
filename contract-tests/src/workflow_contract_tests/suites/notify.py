"""NOTIFY: listeners get a notice of new work, after it is there, and of nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, TypeAlias, TypeVar, cast

from workflow_runtime.payloads import encode_json
from workflow_runtime.store import (
    NOTICE_HORIZON_MS,
    NewEvent,
    RunToCreate,
    SignalToDeliver,
    SupportsNotify,
    Timer,
    WorkflowExecutionStore,
    WorkNotice,
)

from ..cases import clause
from ..children import run_children
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import event
from ..scenarios import claim_pending, create, create_arguments, park, run_to_create, start, start_waiting
from ..settings import scaled
from ..tasks import all_of
from ..ticking import claim_ticks, settle_arguments, upsert
from ..verbs import CLAIM_VERBS, ClaimVerb

T = TypeVar("T")

_LATE_S = 10.0
_QUIET_S = 0.15
"""The time within which every notice has arrived."""


class _Listener:
    """A listener that keeps the notices it gets."""

    def __init__(self) -> None:
        self.heard: list[WorkNotice] = []

    def __call__(self, notice: WorkNotice) -> None:
        self.heard.append(notice)

    def told_of(self, run_id: str, since: int = 0) -> bool:
        """Return True if a notice since then is about the run, or about every run."""
        return any(notice.run_id in {None, run_id} for notice in self.heard[since:])

    async def until_told_of(self, run_id: str, since: int = 0) -> None:
        """Wait for a notice about the run."""
        await _until(lambda: self.told_of(run_id, since), f"no notice came for {run_id!r}")


async def _quiet(listeners: Iterable[_Listener]) -> None:
    """Wait until earlier notices have arrived, and drop them."""
    await asyncio.sleep(_QUIET_S)
    for listener in listeners:
        listener.heard.clear()


async def _until(condition: Callable[[], bool], otherwise: str) -> None:
    end = asyncio.get_running_loop().time() + _LATE_S
    while not condition():
        assert asyncio.get_running_loop().time() < end, otherwise
        await asyncio.sleep(0.002)


@asynccontextmanager
async def _listening(*stores: WorkflowExecutionStore) -> AsyncIterator[list[_Listener]]:
    """Listen on handles. The block begins when notices are live."""
    listeners = [_Listener() for _ in stores]
    async with AsyncExitStack() as stack:
        listens = [
            cast(SupportsNotify, store).listen(listener) for store, listener in zip(stores, listeners, strict=True)
        ]
        entered = [await stack.enter_async_context(listen) for listen in listens]
        await _until(lambda: all(listening.live for listening in entered), "listening never becomes live")
        await _quiet(listeners)
        yield listeners


MakeWork: TypeAlias = Callable[[], Awaitable[object]]


async def _new_run(h: StoreHarness, later_ms: int = 0) -> tuple[str, MakeWork]:
    return "new", lambda: create(h, "new", available_at_ms=h.now_ms + later_ms)


async def _tick(h: StoreHarness) -> tuple[str, MakeWork]:
    nothing = encode_json(None)
    await h.store.upsert_schedule(
        schedule_id="s",
        workflow_id="w",
        workflow_version="1",
        spec=nothing,
        input=nothing,
        next_fire_at_ms=h.now_ms,
        now_ms=h.now_ms,
    )
    claims = await h.store.claim_due_schedule_buckets(owner="w", lease_ms=9, now_ms=h.now_ms, limit=1)
    (tick,) = claims.buckets
    return "ticked", lambda: h.store.mark_schedule_bucket_started(
        schedule_id="s",
        fire_at_ms=tick.fire_at_ms,
        lease_token=tick.lease.token,
        operation_id="tick",
        expected_revision=1,
        action="start",
        run_id="ticked",
        now_ms=h.now_ms,
    )


async def _signal(h: StoreHarness, holder: LeaseHolder) -> tuple[str, MakeWork]:
    return holder.run_id, holder.signal


async def _approval(h: StoreHarness, holder: LeaseHolder) -> tuple[str, MakeWork]:
    return holder.run_id, lambda: h.store.deliver_approval(
        run_id=holder.run_id, approval_id="yes", approved=True, now_ms=h.now_ms
    )


async def _hasten(h: StoreHarness, holder: LeaseHolder) -> tuple[str, MakeWork]:
    return holder.run_id, lambda: h.store.deliver_retry(run_id=holder.run_id, retry_id="r", now_ms=h.now_ms)


async def _cancel(h: StoreHarness, run_id: str) -> tuple[str, MakeWork]:
    return run_id, lambda: h.store.cancel_run(run_id=run_id, now_ms=h.now_ms)


async def _new_runs(h: StoreHarness, later_ms: int = 0) -> tuple[str, MakeWork]:
    await create(h, "old")
    runs = [run_to_create(h, "old"), run_to_create(h, "new", available_at_ms=h.now_ms + later_ms)]
    return "new", lambda: h.store.create_runs(runs=runs, now_ms=h.now_ms)


async def _signals(h: StoreHarness, holder: LeaseHolder) -> tuple[str, MakeWork]:
    ids = ("nobody", holder.run_id)
    signals = [SignalToDeliver(run_id=run_id, signal_id="s", name="go") for run_id in ids]
    return holder.run_id, lambda: h.store.deliver_signals(signals=signals, now_ms=h.now_ms)


async def _requeue(h: StoreHarness) -> tuple[str, MakeWork]:
    holder = await start(h, lease_ms=1)
    h.advance(1_000_000)
    assert (await park(h, holder)).dead == (holder.run_id,)
    return holder.run_id, lambda: h.store.requeue_run(run_id=holder.run_id, now_ms=h.now_ms)


async def _cancel_many(h: StoreHarness, run_id: str) -> tuple[str, MakeWork]:
    return run_id, lambda: h.store.cancel_runs(run_ids=["nobody", run_id], now_ms=h.now_ms)


async def _requeue_many(h: StoreHarness) -> tuple[str, MakeWork]:
    run_id, _ = await _requeue(h)
    return run_id, lambda: h.store.requeue_runs(run_ids=["nobody", run_id], now_ms=h.now_ms)


async def _retry(h: StoreHarness) -> tuple[str, MakeWork]:
    holder = await start(h)
    await holder.fail()
    return holder.run_id, lambda: h.store.retry_run(
        run_id=holder.run_id, event=NewEvent(kind="retried"), now_ms=h.now_ms
    )


async def _retry_many(h: StoreHarness) -> tuple[str, MakeWork]:
    run_id, _ = await _retry(h)
    return run_id, lambda: h.store.retry_runs(
        run_ids=["nobody", run_id], event=NewEvent(kind="retried"), now_ms=h.now_ms
    )


async def _fork(h: StoreHarness) -> tuple[str, MakeWork]:
    holder = await start(h)
    arguments = _fork_arguments(h, holder.run_id)
    return "forked", lambda: h.store.fork_run(**arguments)


def _fork_arguments(h: StoreHarness, run_id: str) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "new_run_id": "forked",
        "from_index": 0,
        "event": event(),
        "operation_id": h.new_id("op"),
        "now_ms": h.now_ms,
    }


async def _release(h: StoreHarness) -> tuple[str, MakeWork]:
    holder = await start(h)
    return holder.run_id, holder.release


async def _pause_with_unseen_inbox(h: StoreHarness) -> tuple[str, MakeWork]:
    holder = await start(h)
    await holder.signal()
    return holder.run_id, holder.pause


async def _pause_with_timer(h: StoreHarness) -> tuple[str, MakeWork]:
    holder = await start(h)
    return holder.run_id, lambda: holder.pause(timers={"t": h.now_ms + NOTICE_HORIZON_MS - 1})


async def _new_schedule(h: StoreHarness) -> tuple[str, MakeWork]:
    return "anything", lambda: _upsert(h, 1)


async def _changed_schedule(h: StoreHarness) -> tuple[str, MakeWork]:
    await _upsert(h, 1)
    return "anything", lambda: _upsert(h, 2)


async def _requested_tick(h: StoreHarness) -> tuple[str, MakeWork]:
    await _upsert(h, 1)
    return "anything", lambda: h.store.request_schedule_buckets(
        schedule_id="s", fire_times_ms=[h.now_ms], now_ms=h.now_ms
    )


async def _upsert(h: StoreHarness, spec: int) -> None:
    await h.store.upsert_schedule(
        schedule_id="s",
        workflow_id="w",
        workflow_version="1",
        spec=encode_json(spec),
        input=encode_json(None),
        next_fire_at_ms=h.now_ms + 10**9,
        now_ms=h.now_ms,
    )


TOLD: dict[str, Callable[[StoreHarness], Awaitable[tuple[str, MakeWork]]]] = {
    "creation": _new_run,
    "creation for later": lambda h: _new_run(h, 10**9),
    "creation of several runs": _new_runs,
    "creation of several runs for later": lambda h: _new_runs(h, 10**9),
    "tick": _tick,
    "new schedule": _new_schedule,
    "changed schedule": _changed_schedule,
    "requested tick": _requested_tick,
    "signal to a paused run": lambda h: _then(start_waiting(h), _signal, h),
    "signal to a running run": lambda h: _then(start(h), _signal, h),
    "signals to paused runs": lambda h: _then(start_waiting(h), _signals, h),
    "signals to running runs": lambda h: _then(start(h), _signals, h),
    "approval to a paused run": lambda h: _then(start_waiting(h, approvals=["yes"]), _approval, h),
    "approval to a running run": lambda h: _then(start(h), _approval, h),
    "wish to retry of a paused run": lambda h: _then(start_waiting(h), _hasten, h),
    "wish to retry of a running run": lambda h: _then(start(h), _hasten, h),
    "cancel of a paused run": lambda h: _then(start_waiting(h), lambda h, holder: _cancel(h, holder.run_id), h),
    "cancel of a running run": lambda h: _then(start(h), lambda h, holder: _cancel(h, holder.run_id), h),
    "cancel of a queued run": lambda h: _then(create(h), lambda h, run: _cancel(h, run.run_id), h),
    "cancel of several runs": lambda h: _then(start(h), lambda h, holder: _cancel_many(h, holder.run_id), h),
    "requeue": _requeue,
    "requeue of several runs": _requeue_many,
    "retry": _retry,
    "retry of several runs": _retry_many,
    "fork": _fork,
    "release": _release,
    "pause with unseen inbox": _pause_with_unseen_inbox,
    "pause with a timer": _pause_with_timer,
}


async def _then(
    first: Awaitable[T], then: Callable[[StoreHarness, T], Awaitable[tuple[str, MakeWork]]], h: StoreHarness
) -> tuple[str, MakeWork]:
    return await then(h, await first)


_OF_SCHEDULES = ("tick", "new schedule", "changed schedule", "requested tick")
_OF_ONE_RUN = (
    "requeue",  # moves the clock, so it is prepared first
    "creation",
    "signal to a paused run",
    "approval to a running run",
    "wish to retry of a paused run",
    "cancel of a running run",
    "retry",
    "fork",
    "release",
    "pause with unseen inbox",
)


@clause("NOTIFY-1", capability="notify", each=TOLD, schedules=_OF_SCHEDULES)
async def work_is_told_to_everybody(h: StoreHarness, what: str) -> None:
    """Listeners of the handle that makes work and of others are notified of it, soon."""
    third = (await h.handles(3))[2]
    async with _listening(h.store, h.second, third) as listeners:
        run_id, make_work = await TOLD[what](h)
        await _quiet(listeners)
        await make_work()
        for listener in listeners:
            await listener.until_told_of(run_id)


@clause("NOTIFY-1", capability="notify")
async def work_in_bursts_is_told(h: StoreHarness) -> None:
    """Of many runs created at once, a notice of each comes after it is there, however notices are put together."""
    async with _listening(h.second) as (listener,):
        since: dict[str, int] = {}

        async def make_some(maker: int) -> None:
            for number in range(scaled(40)):
                await create(h, f"{maker}-{number}")
                since[f"{maker}-{number}"] = len(listener.heard)

        await all_of(*(make_some(maker) for maker in range(5)))
        for run_id, heard in since.items():
            if WorkNotice(run_id=run_id) not in listener.heard:
                await listener.until_told_of(run_id, heard)


@clause("NOTIFY-1", capability="notify")
async def work_of_all_kinds_at_once_is_told(h: StoreHarness) -> None:
    """Of all that happens to several runs at the same time, a notice comes of each, whatever the verb."""
    works = dict([await TOLD[what](h) for what in _OF_ONE_RUN])
    assert len(works) == len(_OF_ONE_RUN)
    async with _listening(h.second) as (listener,):
        # What comes first may be told in another way than the others.
        await all_of(_as_task(lambda: create(h, "first")), *(_as_task(make_work) for make_work in works.values()))
        for run_id in ("first", *works):
            await listener.until_told_of(run_id)


@clause("NOTIFY-1", capability="notify", schedules=True)
async def ticks_beside_other_work_are_told(h: StoreHarness) -> None:
    """Of runs that ticks start while something else is told, a notice comes of each."""
    names = [f"s-{number}" for number in range(3)]
    for name in names:
        await upsert(h, name)
    marks = [settle_arguments(h, tick, "start", tick.schedule.schedule_id) for tick in (await claim_ticks(h)).buckets]
    assert [mark["run_id"] for mark in marks] == names
    async with _listening(h.second) as (listener,):
        await all_of(create(h, "new"), *(h.store.mark_schedule_bucket_started(**mark) for mark in marks))
        for run_id in ("new", *names):
            await listener.until_told_of(run_id)


async def _as_task(make_work: MakeWork) -> None:
    await make_work()


@clause("NOTIFY-1", capability="notify", needs=("processes",))
async def work_of_other_processes_is_told(h: StoreHarness) -> None:
    """A process that listens is notified of a run that another one queues."""
    waiting = await start_waiting(h)
    async with _listening(h.store) as (listener,):
        await run_children(h, [{"task": "deliver", "run_id": waiting.run_id, "signal_ids": ["s"]}])
        await listener.until_told_of(waiting.run_id)


@clause("NOTIFY-2", capability="notify")
async def work_is_there_when_it_is_told(h: StoreHarness) -> None:
    """A claim at the moment of a notice, through another handle, gets the run."""
    third = (await h.handles(3))[2]
    found: list[asyncio.Task[int]] = []

    async def claim_now() -> int:
        return len((await claim_pending(h, store=third)).claims)

    async with AsyncExitStack() as stack:
        on_notice = lambda notice: found.append(asyncio.ensure_future(claim_now()))  # noqa: E731
        listening = await stack.enter_async_context(cast(SupportsNotify, h.second).listen(on_notice))
        await _until(lambda: listening.live, "listening never becomes live")
        await asyncio.sleep(_QUIET_S)
        for number in range(scaled(10)):
            await asyncio.gather(*found)
            found.clear()
            await create(h, f"run-{number}")
            await _until(lambda: bool(found), "no notice came")
            assert await found[0] == 1, "the first claim after a notice found nothing"
            await asyncio.sleep(_QUIET_S / 3)


@clause("NOTIFY-3", capability="notify")
async def listening_begins_with_a_look_at_everything(h: StoreHarness) -> None:
    """The first notice, as listening becomes live, has `None`: anything may have happened before."""
    await create(h, "before")
    listener = _Listener()
    async with cast(SupportsNotify, h.second).listen(listener) as listening:
        await _until(lambda: bool(listener.heard), "no notice came")
        assert listener.heard[0] == WorkNotice(run_id=None)
        assert listening.live
        assert len((await claim_pending(h)).claims) == 1


@clause("NOTIFY-3", capability="notify", fresh=True)
async def listening_begins_without_tables(h: StoreHarness) -> None:
    """Listening to a store whose tables are not there yet begins at once, and notifies when they are."""
    listener = _Listener()
    async with asyncio.timeout(_LATE_S * 2), cast(SupportsNotify, h.second).listen(listener) as listening:
        await h.store.ensure_schema()
        await _until(lambda: listening.live, "listening never becomes live")
        await create(h, "first")
        await listener.until_told_of("first")


@clause("NOTIFY-4", capability="notify")
async def who_has_left_hears_nothing(h: StoreHarness) -> None:
    """After the block no notice comes, while other listeners still get theirs."""
    async with _listening(h.second) as (stays,):
        async with _listening(h.store, h.second) as gone:
            await create(h, "heard")
            for listener in gone:
                await listener.until_told_of("heard")
            await create(h, "on its way")
        counts = [len(listener.heard) for listener in gone]
        await create(h, "late")
        await stays.until_told_of("late")
        await asyncio.sleep(_QUIET_S)
        assert [len(listener.heard) for listener in gone] == counts


async def _append_and_renew(h: StoreHarness) -> None:
    holder = await start(h)
    for _ in range(3):
        await holder.append("1", "2", set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 5)])
        await holder.heartbeat()
    await holder.set_timer("alarm", h.now_ms + 1_000)


async def _pause_for_long(h: StoreHarness) -> None:
    await (await start(h)).pause(signals=["go"], timers={"t": h.now_ms + NOTICE_HORIZON_MS})


async def _end(h: StoreHarness) -> None:
    await (await start(h)).finish()
    await (await start(h)).fail()


async def _terminate(h: StoreHarness) -> None:
    holders = [await start(h), await start(h), await start_waiting(h), await start_waiting(h)]
    for holder in holders[::2]:
        await h.store.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)
    await h.store.terminate_runs(run_ids=[holder.run_id for holder in holders[1::2]], now_ms=h.now_ms)


async def _lie_in_the_inbox(h: StoreHarness) -> None:
    waiting = await start_waiting(h, signals=["go"])
    await waiting.signal("something else")
    other = SignalToDeliver(run_id=waiting.run_id, signal_id="s9", name="something else")
    await h.store.deliver_signals(signals=[other], now_ms=h.now_ms)


async def _repeat(h: StoreHarness) -> None:
    ended = await start(h)
    await ended.signal("go", "s")
    await ended.finish()
    await ended.signal("go", "s")
    await ended.signal("go", "too late")
    await h.store.cancel_run(run_id=ended.run_id, now_ms=h.now_ms)
    await h.store.requeue_run(run_id=ended.run_id, now_ms=h.now_ms)
    await h.store.retry_run(run_id=ended.run_id, event=NewEvent(kind="retried"), now_ms=h.now_ms)


async def _repeat_for_many(h: StoreHarness) -> None:
    ended = await start(h)
    await ended.finish()
    ids, now_ms = [ended.run_id], h.now_ms
    await h.store.cancel_runs(run_ids=ids, now_ms=now_ms)
    await h.store.terminate_runs(run_ids=ids, now_ms=now_ms)
    await h.store.requeue_runs(run_ids=ids, now_ms=now_ms)
    await h.store.retry_runs(run_ids=ids, event=NewEvent(kind="retried"), now_ms=now_ms)
    signal = SignalToDeliver(run_id=ended.run_id, signal_id="s", name="go")
    await h.store.deliver_signals(signals=[signal], now_ms=now_ms)


async def _repeat_beginnings(h: StoreHarness) -> None:
    creation = create_arguments(h, run_id="created")
    fork = _fork_arguments(h, "created")
    for _ in range(2):
        for _ in range(2):
            await h.store.create_run(**creation)
            again = RunToCreate(**{name: value for name, value in creation.items() if name != "now_ms"})
            await h.store.create_runs(runs=[again], now_ms=h.now_ms)
        for _ in range(2):
            await h.store.fork_run(**fork)
        await asyncio.sleep(_QUIET_S)


NOT_TOLD: dict[str, tuple[Callable[[StoreHarness], Awaitable[None]], int]] = {
    "appends and renewals": (_append_and_renew, 0),
    "a pause for long": (_pause_for_long, 0),
    "ends": (_end, 0),
    "ends at once": (_terminate, 0),
    "an entry in the inbox": (_lie_in_the_inbox, 0),
    "calls that come too late": (_repeat, 1),
    "calls for many that come too late": (_repeat_for_many, 0),
    "repeated beginnings": (_repeat_beginnings, 2),
}


@clause("NOTIFY-5", capability="notify", each=NOT_TOLD)
async def what_nobody_waits_for_is_not_told(h: StoreHarness, what: str) -> None:
    """Writes that leave no worker anything to do notify nobody."""
    async with _listening(h.second) as (listener,):
        do, notices = NOT_TOLD[what]
        await do(h)
        await asyncio.sleep(_QUIET_S)
        assert len(listener.heard) == notices, f"{what} told {listener.heard}"
        await create(h, "afterwards")
        await listener.until_told_of("afterwards", notices)


@clause("NOTIFY-5", "NOTIFY-1", capability="notify", each=CLAIM_VERBS)
async def claims_are_not_told(h: StoreHarness, verb: ClaimVerb) -> None:
    """Claiming, whether it finds something or not, notifies nobody."""
    await verb.make_ready(h, h.now_ms + 1)
    h.advance(10)
    async with _listening(h.second) as (listener,):
        assert len((await verb.call(h)).claims) == 1
        assert (await verb.call(h)).claims == ()
        await asyncio.sleep(_QUIET_S)
        assert listener.heard == []
