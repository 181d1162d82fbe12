"""Following a run's log: what a handle gives, how often a store is asked, and what ends it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, cast

import pytest
from workflow_runtime import (
    CapabilityNotSupportedError,
    Context,
    CorruptRecordError,
    RunNotFoundError,
    RunStatus,
    WorkflowExecutionStore,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.store import Event, LogPage, StoreCapabilities, follow_events

if TYPE_CHECKING:
    from conftest import Lab


async def echo(value: Any) -> Any:
    return value


@workflow()
async def three_steps(ctx: Context, _: Any) -> Any:
    for number in range(3):
        await ctx.step(echo, number)


def event(index: int) -> Event:
    return Event(index=index, kind="note", step_id=None, payload=None, created_at_ms=1)


class Looks:
    """A store's look: gives one page after the other, the last one again and again."""

    def __init__(self, *pages: LogPage | None) -> None:
        self.pages = list(pages)
        self.asked: list[int] = []
        self.times: list[float] = []

    async def __call__(self, *, run_id: str, from_index: int) -> LogPage | None:
        self.asked.append(from_index)
        self.times.append(asyncio.get_running_loop().time())
        return self.pages.pop(0) if len(self.pages) > 1 else self.pages[0]


def page(next_index: int, *events: Event, status: RunStatus = RunStatus.RUNNING, created: int = 1) -> LogPage:
    return LogPage(status=status, created_at_ms=created, next_index=next_index, events=events)


async def follow(look: Looks, from_index: int = 0) -> list[int]:
    async with asyncio.timeout(10):
        return [event.index async for event in follow_events(look, run_id="a", from_index=from_index)]


async def test_handle_gives_the_log_until_the_run_has_ended(lab: Lab) -> None:
    runtime = lab.runtime(three_steps)
    handle = await runtime.start_run(three_steps)
    following = asyncio.ensure_future(_kinds(handle.events()))
    await runtime.sweep()
    kinds = await asyncio.wait_for(following, 10)
    assert kinds == [event.kind for event in await lab.events(handle.run_id)]
    assert kinds[-1] == "run-finished"
    assert await _kinds(handle.events(len(kinds) - 1)) == ["run-finished"]


async def _kinds(events: Any) -> list[str]:
    return [event.kind async for event in events]


async def test_store_that_does_not_declare_it_is_not_followed(lab: Lab) -> None:
    class Plain:
        capabilities = StoreCapabilities(max_payload_bytes=1, durable=False)

    runtime = WorkflowRuntime(store=cast(WorkflowExecutionStore, Plain()), workflows=[three_steps])
    with pytest.raises(CapabilityNotSupportedError, match="subscribe"):
        runtime.attach("a").events()


async def test_full_pages_are_read_without_a_pause() -> None:
    look = Looks(page(3, event(0)), page(3, event(1)), page(3, event(2), status=RunStatus.FINISHED))
    assert await follow(look) == [0, 1, 2]
    assert look.asked == [0, 1, 2]
    assert look.times[-1] - look.times[0] < 0.02


async def test_quiet_run_is_looked_at_less_and_less_often() -> None:
    look = Looks(page(0))
    follower = follow_events(look, run_id="a", from_index=0)
    coming = asyncio.ensure_future(anext(follower))
    await asyncio.wait([coming], timeout=1.5)
    coming.cancel()
    await asyncio.wait([coming])
    pauses = [later - earlier for earlier, later in zip(look.times, look.times[1:], strict=False)]
    assert pauses[0] < 0.1
    assert pauses[-1] > 3 * pauses[0]
    assert len(look.times) < 12


async def test_activity_makes_the_looks_frequent_again() -> None:
    quiet = [page(0)] * 6
    look = Looks(*quiet, page(1, event(0)), page(1), page(1, status=RunStatus.FINISHED))
    assert await follow(look) == [0]
    pauses = [later - earlier for earlier, later in zip(look.times, look.times[1:], strict=False)]
    assert pauses[6] < pauses[5] / 2


async def test_gap_in_the_log_is_said() -> None:
    with pytest.raises(CorruptRecordError, match="event 1 is missing"):
        await follow(Looks(page(2, event(0)), page(2)))


@pytest.mark.parametrize("later", [None, page(0), page(5, event(1), created=2)], ids=["gone", "shorter", "another"])
async def test_record_of_another_run_is_not_given(later: LogPage | None) -> None:
    look = Looks(page(1, event(0)), later)
    async with aclosing(follow_events(look, run_id="a", from_index=0)) as follower:
        assert (await anext(follower)).index == 0
        with pytest.raises(RunNotFoundError):
            await asyncio.wait_for(anext(follower), 10)


async def test_index_past_the_end_is_waited_for() -> None:
    look = Looks(page(1), page(3, event(2)), page(3, status=RunStatus.ABORTED))
    assert await follow(look, 2) == [2]
