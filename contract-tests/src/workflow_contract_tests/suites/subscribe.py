"""SUBSCRIBE: a follower of a run gets its whole log, once and in order, and delays nothing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import cast

from workflow_runtime.errors import RunNotFoundError
from workflow_runtime.store import DEFAULT_HISTORY_BYTES, Event, SupportsSubscribe, WorkflowExecutionStore

from ..cases import clause
from ..children import run_children
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..scenarios import create, park, start
from ..settings import scaled
from ..tasks import all_of

_SOON_S = 0.2
"""Longer than a store may need to answer, shorter than a follower's patience."""
_LATE_S = 10.0


def _follow(store: WorkflowExecutionStore, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
    return cast(SupportsSubscribe, store).subscribe_events(run_id=run_id, from_index=from_index)


async def _collect(store: WorkflowExecutionStore, run_id: str, from_index: int = 0) -> list[Event]:
    async with asyncio.timeout(_LATE_S):
        return [event async for event in _follow(store, run_id, from_index)]


@clause("SUBSCRIBE-1", capability="subscribe", each=("finished", "errored", "terminated", "dead"))
async def log_of_an_ended_run_is_given(h: StoreHarness, end: str) -> None:
    """The log of a run that has ended is given from the index on, as it was appended, and then it is over."""
    holder = await start(h, lease_ms=1)
    await holder.append('"a"', "null", '"b"')
    if end == "finished":
        await holder.finish(events=[])
    elif end == "errored":
        await holder.fail()
    elif end == "terminated":
        await h.store.terminate_run(run_id=holder.run_id, now_ms=h.now_ms)
    else:
        h.advance(1_000_000)
        assert (await park(h, holder)).dead == (holder.run_id,)
    log = list(await h.store.read_events(run_id=holder.run_id, limit=9))
    assert [event.payload for event in log] == ['"a"', "null", '"b"']
    for from_index in (0, 1, 3, 7):
        assert await _collect(h.second, holder.run_id, from_index) == log[from_index:]


@clause("SUBSCRIBE-1", capability="subscribe")
async def long_log_is_given_once(h: StoreHarness) -> None:
    """A log of several pages, by number and by bytes, is given without gaps and without repeats."""
    holder = await start(h)
    for _ in range(4):
        await holder.append(*["1"] * 600)
    large = f'"{"x" * 400_000}"'
    for _ in range(4):
        await holder.append(large)
    await holder.finish()
    given = await _collect(h.second, holder.run_id)
    assert [event.index for event in given] == list(range(2_404))
    assert [event.payload for event in given[-4:]] == [large] * 4


@clause("SUBSCRIBE-1", "PAYLOAD-3", capability="subscribe")
async def event_larger_than_a_page_is_given(h: StoreHarness) -> None:
    """A follower gets the largest events too, wherever they stand in the log."""
    holder = await start(h)
    size = min(h.store.capabilities.max_payload_bytes, 2 * DEFAULT_HISTORY_BYTES)
    large = f'"{"x" * (size - 2)}"'
    for payload in (large, '"a"', large, large, '"b"'):
        await holder.append(payload)
    await holder.finish()
    assert [event.payload for event in await _collect(h.second, holder.run_id)] == [large, '"a"', large, large, '"b"']


@clause("SUBSCRIBE-1", "SUBSCRIBE-2", capability="subscribe")
async def last_event_comes_before_the_end(h: StoreHarness) -> None:
    """Followers of a run that grows until it ends get all of it, the last event too, whenever they began."""
    holder = await start(h)
    count = scaled(30)

    async def drive() -> None:
        for number in range(count):
            await holder.append(str(number))
            await asyncio.sleep(0.002)
        await holder.finish()

    async def follow(after: float, from_index: int) -> list[int]:
        await asyncio.sleep(after)
        return [event.index for event in await _collect(h.second, holder.run_id, from_index)]

    (_, *followed) = await all_of(drive(), follow(0, 0), follow(0, 5), follow(0.03, 0), follow(0.03, count))
    assert followed == [list(range(count)), list(range(5, count)), list(range(count)), []]


@clause("SUBSCRIBE-1", "SUBSCRIBE-3", capability="subscribe")
async def following_is_of_one_run(h: StoreHarness) -> None:
    """Among runs that go on and others that have ended a follower gets the log of its run, and ends with it."""
    ended, open_ = [await start(h, name) for name in ("a", "c")], [await start(h, name) for name in ("b", "d")]
    for holder in [*ended, *open_]:
        await holder.append(*[f'"{holder.run_id}"'] * 3)
    for holder in ended:
        await holder.finish()
    for holder in ended:
        assert [event.payload for event in await _collect(h.second, holder.run_id)] == [f'"{holder.run_id}"'] * 3
    followers = [asyncio.ensure_future(_collect(h.second, holder.run_id, 1)) for holder in open_]
    done, _ = await asyncio.wait(followers, timeout=_SOON_S)
    assert not done, "following a run ended with another one"
    for holder, following in zip(open_, followers, strict=True):
        await holder.finish()
        assert [event.index for event in await following] == [1, 2]
    with refused(RunNotFoundError, "following an unknown run"):
        await _collect(h.second, "nobody")


@clause("SUBSCRIBE-2", capability="subscribe")
async def following_waits_for_what_is_not_there(h: StoreHarness) -> None:
    """A follower of a quiet run waits, and gets the next event, appended by anybody."""
    holder = await start(h)
    async with aclosing(_follow(h.second, holder.run_id, 1)) as follower:
        coming = asyncio.ensure_future(anext(follower))
        done, _ = await asyncio.wait([coming], timeout=_SOON_S)
        assert not done, "an event was given, or the following ended, before there was one"
        await holder.append('"first"')
        await holder.append('"second"')
        event = await asyncio.wait_for(coming, _LATE_S)
        assert (event.index, event.payload) == (1, '"second"')


@clause("SUBSCRIBE-2", capability="subscribe", needs=("processes",))
async def following_sees_other_processes(h: StoreHarness) -> None:
    """A follower gets the events that other processes append, in order."""
    holder = await start(h, lease_ms=600_000)
    count = scaled(10)
    order = {"task": "append", "run_id": holder.run_id, "token": holder.token, "count": count}
    following = asyncio.ensure_future(_take(_follow(h.store, holder.run_id), 2 * count))
    try:
        await run_children(h, [order])
        assert [event.index for event in await asyncio.wait_for(following, _LATE_S)] == list(range(2 * count))
    finally:
        following.cancel()


async def _take(follower: AsyncGenerator[Event, None], count: int) -> list[Event]:
    async with aclosing(follower):
        return [await anext(follower) for _ in range(count)]


@clause("SUBSCRIBE-3", capability="subscribe")
async def unknown_run_is_not_followed(h: StoreHarness) -> None:
    """Following a run that is not there raises `RunNotFoundError`."""
    try:
        await _collect(h.store, "nobody")
    except RunNotFoundError:
        return
    raise AssertionError("an unknown run was followed")


@clause("SUBSCRIBE-3", capability="subscribe", each=("nothing", "another run"))
async def deleted_run_ends_the_following(h: StoreHarness, after: str) -> None:
    """A run that is deleted while it is followed ends that with `RunNotFoundError`, also when its id is used again."""
    holder = await start(h)
    await holder.append('"a"')
    async with aclosing(_follow(h.second, holder.run_id)) as follower:
        assert (await asyncio.wait_for(anext(follower), _LATE_S)).payload == '"a"'
        coming = asyncio.ensure_future(anext(follower, None))
        await h.store.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=True)
        if after == "another run":
            h.advance(1)
            await create(h, holder.run_id)
        try:
            given = await asyncio.wait_for(coming, _LATE_S)
        except RunNotFoundError:
            return
    raise AssertionError(f"the following went on with {given}")


@clause("SUBSCRIBE-3", capability="subscribe")
async def longer_namesake_is_not_followed(h: StoreHarness) -> None:
    """A follower that was slow does not take the log of the next run of that id for the one that it follows."""
    holder = await start(h)
    await holder.append('"a"')
    async with aclosing(_follow(h.second, holder.run_id)) as follower:
        assert (await asyncio.wait_for(anext(follower), _LATE_S)).payload == '"a"'
        await h.store.delete_run(run_id=holder.run_id, now_ms=h.now_ms, force=True)
        h.advance(1)
        again = await start(h, holder.run_id)
        await again.append('"b"', '"c"', '"d"')
        try:
            given = await asyncio.wait_for(anext(follower, None), _LATE_S)
        except RunNotFoundError:
            return
    raise AssertionError(f"the following went on with {given}, of another run")


@clause("SUBSCRIBE-4", capability="subscribe", each=("closing", "cancelling"))
async def following_ends_at_once(h: StoreHarness, how: str) -> None:
    """A follower can stop at once, and the run and the store go on."""
    holder = await start(h)
    await holder.append('"a"')
    followers = [_follow(h.second, holder.run_id) for _ in range(20)]
    for follower in followers:
        await asyncio.wait_for(anext(follower), _LATE_S)
    if how == "cancelling":
        waiting = [asyncio.ensure_future(anext(follower)) for follower in followers]
        await asyncio.sleep(0.05)
        for task in waiting:
            task.cancel()
        done, left = await asyncio.wait(waiting, timeout=_SOON_S * 5)
        assert not left, f"{len(left)} of {len(waiting)} followers could not be cancelled"
        assert all(task.cancelled() for task in done)
    for follower in followers:
        await asyncio.wait_for(follower.aclose(), _SOON_S * 5)
        assert await anext(follower, None) is None
    await _goes_on(h, holder)


async def _goes_on(h: StoreHarness, holder: LeaseHolder) -> None:
    await holder.append('"b"')
    await holder.finish()
    assert [event.payload for event in await _collect(h.second, holder.run_id)] == ['"a"', '"b"']
