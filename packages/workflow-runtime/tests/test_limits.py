"""Limits on what a run waits for at once, and on how much goes into one write: user code decides both."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunFailedError, WaitLimitError, WaitTimeoutError, workflow
from workflow_runtime.engine.history import OperationKind
from workflow_runtime.engine.operations import UNKNOWN_TIMER, Operation
from workflow_runtime.engine.timer_book import TimerBook
from workflow_runtime.errors import StoreOperationError
from workflow_runtime.store import MAX_AWAITED_BYTES, MAX_TIMER_CHANGES
from workflow_runtime.testing import run_to_completion, run_until_blocked

if TYPE_CHECKING:
    from conftest import Lab


TOO_MANY = 1_500
"""Waits for such names that are more than a run carries."""


def long_name(number: int) -> str:
    return f"{number:06}:" + "n" * 400


async def test_handler_hears_that_it_waits_for_too_much(lab: Lab) -> None:
    """At the wait that is one too many, before anything is written; it may go on, and a replay goes the same way."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> list[Any]:
        tasks = [asyncio.create_task(ctx.wait_for_event(long_name(number))) for number in range(TOO_MANY)]
        done, pending = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        assert all(isinstance(task.exception(), WaitLimitError) for task in done)
        for task in pending:
            task.cancel()
        first, second = await asyncio.gather(ctx.wait_for_event("first"), ctx.wait_for_event("second"))
        return [first, second]

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits)
    await run_until_blocked(runtime)
    assert {awaited.name for awaited in (await handle.load()).awaited} == {"first", "second"}
    await runtime.deliver_signal(handle.run_id, "first", 1)
    await run_until_blocked(runtime)
    await runtime.deliver_signal(handle.run_id, "second", 2)
    assert await run_to_completion(runtime, handle, lab.clock) == [1, 2]


@pytest.mark.parametrize("kind", ["signal", "approval"])
async def test_run_that_waits_for_too_much_ends_with_the_error(lab: Lab, kind: str) -> None:
    """Errored with the reason, and not `dead` after some crashes."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> None:
        ask = ctx.wait_for_event if kind == "signal" else ctx.approve
        await asyncio.gather(*(ask(long_name(number)) for number in range(TOO_MANY)))

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits)
    report = await runtime.sweep()
    assert not report.failures
    with pytest.raises(RunFailedError, match=f"WaitLimitError: wait .* a run carries {MAX_AWAITED_BYTES}"):
        await handle.result()


async def test_waits_that_have_ended_count_no_more(lab: Lab) -> None:
    """A run may wait for any number of things, one after the other."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> int:
        for part in range(3):
            group = [ctx.wait_for_event(long_name(part * 1_000 + number)) for number in range(800)]
            await asyncio.gather(*group)
        return 3

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits)
    for part in range(3):
        await run_until_blocked(runtime)
        assert len((await handle.load()).awaited) == 800
        for number in range(800):
            await runtime.deliver_signal(handle.run_id, long_name(part * 1_000 + number))
    assert await run_to_completion(runtime, handle, lab.clock) == 3


@workflow()
async def gives_up(ctx: Context, count: int) -> str:
    """Wait for many things with deadlines, give all of them up at once, and wait for another one."""
    tasks = [
        asyncio.create_task(ctx.wait_for_event(f"n{number}", timeout=timedelta(days=1))) for number in range(count)
    ]
    await ctx.wait_for_event("stop")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    try:
        return str(await ctx.wait_for_event("last", timeout=timedelta(days=9)))
    except WaitTimeoutError:
        return "nothing came"


async def test_very_many_timers_are_removed_in_several_writes(lab: Lab) -> None:
    """All of them before the run is paused again; the timer that it waits for stays."""
    store = lab.tapped()
    runtime = lab.runtime(gives_up, store=store)
    handle = await runtime.start_run(gives_up, 1_200)
    await run_until_blocked(runtime)
    assert len(await lab.timers(handle.run_id)) == 1_200
    await runtime.deliver_signal(handle.run_id, "stop")
    await run_until_blocked(runtime)
    removed = [len(arguments.get("removed_timers", ())) for _, arguments in store.arguments]
    assert max(removed) <= MAX_TIMER_CHANGES
    assert sum(removed) == 1_200
    assert [timer.timer_id for timer in await lab.timers(handle.run_id)] == ["wait:last"]
    assert await run_to_completion(runtime, handle, lab.clock) == "nothing came"


async def test_timers_that_a_crash_left_behind_do_not_keep_the_run_awake(lab: Lab) -> None:
    """The worker dies between two of those writes: the timers wake the run once, and are gone."""
    store = lab.tapped()
    runtime = lab.runtime(gives_up, store=store)
    handle = await runtime.start_run(gives_up, 1_200)
    await run_until_blocked(runtime)
    await runtime.deliver_signal(handle.run_id, "stop")
    writes = 0

    async def die(verb: str, arguments: dict[str, Any]) -> None:
        nonlocal writes
        writes += bool(arguments.get("removed_timers"))
        if writes > 1 and verb in {"append_events", "mark_run_paused"}:
            raise StoreOperationError("the plug was pulled")

    store.before = die
    await runtime.sweep()
    lab.advance(minutes=1)
    other = lab.runtime(gives_up)
    await run_until_blocked(other)
    assert (await handle.load()).status == "paused"
    assert len(await lab.timers(handle.run_id)) == 701
    lab.advance(days=2)
    report = await other.sweep()
    assert (report.claimed["timers"], report.outcomes["paused"]) == (1, 1)
    assert [timer.timer_id for timer in await lab.timers(handle.run_id)] == ["wait:last"]
    assert (await other.sweep()).total == 0
    assert await run_to_completion(other, handle, lab.clock) == "nothing came"


def book(*timers: int | None, pending: bool = True, until_ms: int = 5) -> tuple[TimerBook, list[Operation]]:
    """Make a book of operations, given which timers of theirs the store holds."""
    loop = asyncio.new_event_loop()
    made, operations = TimerBook(), []
    for number, timer in enumerate(timers):
        future = loop.create_future()
        operation = Operation(step_id=f"s{number}", kind=OperationKind.SLEEP, future=future)
        operation.until_ms, operation.timer_set_ms = until_ms, timer
        made.watch(operation)
        if not pending:
            future.set_result(None)
        operations.append(operation)
    loop.close()
    return made, operations


def test_timers_that_may_be_gone_are_set_again_in_several_writes() -> None:
    """After a retry nobody knows which of them the store still holds."""
    timers, operations = book(*[UNKNOWN_TIMER] * 1_200, None)
    seen: list[int] = []
    while timers.overfull:
        to_set, to_remove = timers.changes()
        seen.append(len(to_set))
        assert not to_remove
        assert len(seen) > 1 or to_set[0].timer_id == "s1200"  # the new one comes with the event that sets it
        timers.written()
    to_set, _ = timers.changes()
    timers.written()
    assert [*seen, len(to_set)] == [500, 500, 201]
    assert timers.changes() == ([], [])
    assert {operation.timer_set_ms for operation in operations} == {5}


def test_strays_go_first_and_once() -> None:
    """Together with what else is to be removed they are no more than one write takes."""
    timers, _ = book(*[5] * 300, pending=False)
    for number in range(400):
        timers.stray(f"stray {number}")
    before = timers.overfull
    _, first = timers.changes()
    timers.written()
    after = timers.overfull
    _, second = timers.changes()
    timers.written()
    assert (before, len(first), after, len(second)) == (True, 500, False, 200)
    assert {*first, *second} == {f"stray {n}" for n in range(400)} | {f"s{n}" for n in range(300)}
    assert timers.changes() == ([], [])
