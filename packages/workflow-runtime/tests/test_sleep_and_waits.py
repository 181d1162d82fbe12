"""Sleeps, signals, approvals: what a waiting run hears, in which order, and who wins against the clock."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, RunStatus, WaitTimeoutError, workflow
from workflow_runtime.testing import run_to_completion, run_until_blocked

if TYPE_CHECKING:
    from conftest import Gate, Lab

HOUR = timedelta(hours=1)


async def test_week_of_sleep_takes_no_time(lab: Lab) -> None:
    """The clock jumps to the end of the sleep, and not beyond it."""

    @workflow()
    async def sleeper(ctx: Context, _: Any) -> list[float]:
        start = await ctx.now()
        await ctx.sleep(timedelta(weeks=1))
        await ctx.sleep_until(start + timedelta(weeks=2))
        return [(await ctx.now() - start) / timedelta(weeks=1)]

    assert await lab.finish(sleeper) == [2.0]


async def test_sleep_is_a_timer_and_ends_on_time(lab: Lab) -> None:
    """Paused until the very millisecond; the timer goes with the sleep."""

    @workflow()
    async def sleeper(ctx: Context, _: Any) -> None:
        await ctx.sleep(HOUR)
        await ctx.wait_for_event("end")

    await lab.runtime(sleeper).start_run(sleeper, run_id="run")
    await lab.sweep(sleeper)
    assert [timer.fire_at_ms for timer in await lab.timers("run")] == [lab.clock.now_ms() + 3_600_000]
    lab.advance(seconds=3599.999)
    assert (await lab.sweep(sleeper)).total == 0
    lab.advance(milliseconds=1)
    report = await lab.sweep(sleeper)
    assert (report.claimed, report.outcomes) == ({"timers": 1, "stale": 0, "pending": 0}, {"paused": 1})
    assert await lab.timers("run") == ()


async def test_sleep_that_is_over_needs_no_pause(lab: Lab) -> None:
    """Nothing, less than nothing, and a moment in the past."""

    @workflow()
    async def hasty(ctx: Context, _: Any) -> str:
        await ctx.sleep(timedelta(0))
        await ctx.sleep(-HOUR)
        await ctx.sleep_until(await ctx.now() - HOUR)
        return "awake"

    handle = await lab.runtime(hasty).start_run(hasty)
    assert (await lab.sweep(hasty)).outcomes == {"finished": 1}
    assert await handle.result() == "awake"


async def test_sleep_ends_late_when_no_worker_was_there(lab: Lab) -> None:
    """A worker that comes a month late finds the sleep over."""

    @workflow()
    async def sleeper(ctx: Context, _: Any) -> Any:
        await ctx.sleep(HOUR)
        return "awake"

    handle = await lab.runtime(sleeper).start_run(sleeper)
    await lab.sweep(sleeper)
    lab.advance(days=30)
    await lab.sweep(sleeper)
    assert await handle.result() == "awake"


async def test_parallel_sleeps_end_in_the_order_of_their_times(lab: Lab) -> None:
    """Not in the order of the calls, also when one late worker finds them all over."""

    @workflow()
    async def three(ctx: Context, _: Any) -> list[int]:
        order: list[int] = []

        async def nap(hours: int) -> None:
            await ctx.sleep(HOUR * hours)
            order.append(hours)

        await asyncio.gather(nap(3), nap(1), nap(2))
        return order

    handle = await lab.runtime(three).start_run(three)
    await lab.sweep(three)
    lab.advance(hours=10)
    await lab.sweep(three)
    assert await handle.result() == [1, 2, 3]


async def test_signals_are_kept_and_taken_first_in_first_out(lab: Lab) -> None:
    """Whether they come before the run was driven, before it asks, or while it waits."""

    @workflow()
    async def collects(ctx: Context, _: Any) -> list[Any]:
        found = [await ctx.wait_for_event("item")]
        await ctx.sleep(HOUR)
        return [*found, *[await ctx.wait_for_event("item") for _ in range(3)]]

    runtime = lab.runtime(collects)
    handle = await runtime.start_run(collects, run_id="run")
    assert (await runtime.deliver_signal("run", "item", 1)).kind == "buffered"
    await runtime.deliver_signal("run", "item", 2)
    await lab.sweep(collects)
    await runtime.deliver_signal("run", "item", 3)
    lab.advance(hours=1)
    await lab.sweep(collects)
    assert (await runtime.deliver_signal("run", "item", 4)).kind == "delivered"
    await lab.sweep(collects)
    assert await handle.result() == [1, 2, 3, 4]


async def test_two_waits_on_one_name_are_served_in_the_order_of_asking(lab: Lab) -> None:
    """One signal ends one wait."""

    @workflow()
    async def two(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(ctx.wait_for_event("item"), ctx.wait_for_event("item"))

    runtime = lab.runtime(two)
    handle = await runtime.start_run(two, run_id="run")
    await lab.sweep(two)
    await runtime.deliver_signal("run", "item", "first")
    await lab.sweep(two)
    assert await lab.status("run") is RunStatus.PAUSED
    await runtime.deliver_signal("run", "item", "second")
    await lab.sweep(two)
    assert await handle.result() == ["first", "second"]


async def test_signals_that_came_together_end_all_the_waits_there_are(lab: Lab) -> None:
    """One driver hands them out, on one name and on several, as long as somebody waits."""

    @workflow()
    async def many(ctx: Context, _: Any) -> Any:
        return await asyncio.gather(*(ctx.wait_for_event(name) for name in ("x", "y", "x", "x", "y")))

    runtime = lab.runtime(many)
    handle = await runtime.start_run(many, run_id="run")
    await lab.sweep(many)
    for number, name in enumerate(("y", "x", "x", "z", "y", "x", "x")):
        await runtime.deliver_signal("run", name, number)
    await lab.sweep(many)
    assert await handle.result() == [1, 0, 2, 5, 4]


async def test_names_do_not_meet_and_inbox_order_decides_between_them(lab: Lab) -> None:
    """The first one of two races is the first that arrived, not the first that was asked for."""

    @workflow()
    async def races(ctx: Context, _: Any) -> Any:
        waits = [asyncio.create_task(ctx.wait_for_event(name)) for name in ("a", "b", "c")]
        done, losers = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for task in losers:
            task.cancel()
        return [task.result() for task in waits if task in done]

    runtime = lab.runtime(races)
    handle = await runtime.start_run(races, run_id="run")
    for name in ("other", "c", "a"):
        await runtime.deliver_signal("run", name, name)
    await lab.sweep(races)
    assert await handle.result() == ["c"]


async def test_payload_comes_as_it_was_sent(lab: Lab) -> None:
    """Also `None`, and what looks like JSON inside a string."""
    payloads: list[Any] = [None, "null", "{}", [], 2**70, "\0\udc80", {"b": 1, "a": 2}]

    @workflow()
    async def collects(ctx: Context, count: int) -> list[Any]:
        return [await ctx.wait_for_event("item") for _ in range(count)]

    runtime = lab.runtime(collects)
    handle = await runtime.start_run(collects, len(payloads), run_id="run")
    for payload in payloads:
        await runtime.deliver_signal("run", "item", payload)
    found = await run_to_completion(runtime, handle, lab.clock)
    assert found == payloads
    assert list(found[-1]) == ["b", "a"]


async def test_signal_id_acts_once(lab: Lab) -> None:
    """Sent again, before or after it was taken, it is a duplicate."""

    @workflow()
    async def two(ctx: Context, _: Any) -> Any:
        return [await ctx.wait_for_event("item"), await ctx.wait_for_event("item")]

    runtime = lab.runtime(two)
    handle = await runtime.start_run(two, run_id="run")
    await lab.sweep(two)
    kinds = []
    for payload in ("one", "one again"):
        kinds.append((await runtime.deliver_signal("run", "item", payload, signal_id="id-1")).kind)
        await lab.sweep(two)
    kinds.append((await runtime.deliver_signal("run", "item", "two", signal_id="id-2")).kind)
    await lab.sweep(two)
    assert kinds == ["delivered", "duplicate", "delivered"]
    assert await handle.result() == ["one", "two"]
    assert (await runtime.deliver_signal("run", "item", "three", signal_id="id-1")).kind == "duplicate"
    assert (await runtime.deliver_signal("run", "item", "three")).kind == "finished"
    assert (await runtime.deliver_signal("elsewhere", "item")).kind == "not-found"


async def test_only_if_waiting(lab: Lab) -> None:
    """Refused, and without a trace, unless the run waits for this name at this moment."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("yes")

    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    assert (await runtime.deliver_signal("run", "yes", only_if_waiting=True)).kind == "not-waiting"
    await lab.sweep(waits)
    assert (await runtime.deliver_signal("run", "no", only_if_waiting=True)).kind == "not-waiting"
    assert (await lab.load("run")).inbox_seq == 0
    assert (await runtime.deliver_signal("run", "yes", only_if_waiting=True)).kind == "delivered"


async def test_paused_run_tells_what_it_waits_for(lab: Lab) -> None:
    """Name, step id and deadline, for whoever looks at it."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        await asyncio.gather(
            ctx.wait_for_event("payment", timeout=HOUR), ctx.approve("refund"), ctx.wait_for_event("x", id="mine")
        )

    await lab.runtime(waits).start_run(waits, run_id="run")
    await lab.sweep(waits)
    run = await lab.load("run")
    assert [(item.kind, item.name, item.step_id, item.until_ms) for item in run.awaited] == [
        ("signal", "payment", "wait:payment", lab.clock.now_ms() + 3_600_000),
        ("approval", "refund", "approval:refund", None),
        ("signal", "x", "mine", None),
    ]


async def test_timeout_ends_a_wait(lab: Lab) -> None:
    """The error is a `TimeoutError` too, and the same in the replay."""
    seen = []

    @workflow()
    async def gives_up(ctx: Context, _: Any) -> str:
        try:
            await ctx.wait_for_event("never", timeout=HOUR)
        except TimeoutError as error:
            seen.append((type(error), str(error)))
        await ctx.sleep(HOUR)
        return "gave up"

    assert await lab.finish(gives_up, run_id="run") == "gave up"
    assert seen == [(WaitTimeoutError, "wait 'wait:never' timed out")] * 2
    assert (await lab.log("run"))[:2] == ["wait-started wait:never", "wait-timed-out wait:never"]


async def test_signal_in_time_wins_though_the_worker_comes_late(lab: Lab) -> None:
    """What counts is when it arrived, not when somebody looked; the deadline's timer is gone with the wait."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        answer = await ctx.wait_for_event("answer", timeout=HOUR)
        await ctx.wait_for_event("end")
        return answer

    runtime = lab.runtime(waits)
    await runtime.start_run(waits, run_id="run")
    await lab.sweep(waits)
    assert len(await lab.timers("run")) == 1
    lab.advance(minutes=60)
    await runtime.deliver_signal("run", "answer", "just in time")
    lab.advance(days=1)
    await lab.sweep(waits)
    assert await lab.timers("run") == ()
    assert (await lab.load("run")).due_at_ms is None
    assert "signal-received wait:answer" in await lab.log("run")


async def test_signal_after_the_deadline_loses_and_stays(lab: Lab) -> None:
    """The wait has timed out although nobody was there to say so; a later wait takes the signal."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> list[Any]:
        try:
            first = await ctx.wait_for_event("answer", timeout=HOUR)
        except WaitTimeoutError:
            first = "timed out"
        return [first, await ctx.wait_for_event("answer")]

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits, run_id="run")
    await lab.sweep(waits)
    lab.advance(minutes=60, milliseconds=1)
    assert (await runtime.deliver_signal("run", "answer", "too late")).kind == "delivered"
    await lab.sweep(waits)
    assert await handle.result() == ["timed out", "too late"]
    assert await lab.log("run") == [
        "wait-started wait:answer",
        "wait-timed-out wait:answer",
        "wait-started wait:answer#2",
        "signal-received wait:answer#2",
        "run-finished",
    ]


async def test_late_signal_goes_to_the_wait_that_still_stands(lab: Lab) -> None:
    """Of two waits on one name, the expired one times out and the other one gets it."""

    @workflow()
    async def two(ctx: Context, _: Any) -> Any:
        results = await asyncio.gather(
            ctx.wait_for_event("x", timeout=HOUR), ctx.wait_for_event("x"), return_exceptions=True
        )
        return [str(result) for result in results]

    runtime = lab.runtime(two)
    handle = await runtime.start_run(two, run_id="run")
    await lab.sweep(two)
    lab.advance(hours=2)
    await runtime.deliver_signal("run", "x", "late")
    await run_until_blocked(runtime)
    assert await handle.result() == ["wait 'wait:x' timed out", "late"]


async def test_approvals(lab: Lab) -> None:
    """Yes, no, by whom and why; decided while waited for, or before."""

    @workflow()
    async def asks(ctx: Context, _: Any) -> Any:
        one, two = await ctx.approve("one"), await ctx.approve("two")
        return [[a.approved, a.decided_by, a.comment] for a in (one, two)]

    runtime = lab.runtime(asks)
    handle = await runtime.start_run(asks, run_id="run")
    assert (await runtime.deliver_approval("run", "two", approved=False, comment="Zu teuer: 5 €")).kind == "buffered"
    await lab.sweep(asks)
    decided = await runtime.deliver_approval("run", "one", approved=True, decided_by="Ada")
    assert decided.kind == "delivered"
    again = await runtime.deliver_approval("run", "one", approved=False)
    assert again.kind == "already-decided"
    assert again.approved is True
    await lab.sweep(asks)
    assert await handle.result() == [[True, "Ada", None], [False, None, "Zu teuer: 5 €"]]


async def test_approval_times_out_and_a_late_decision_changes_nothing(lab: Lab) -> None:
    """Nobody decided in time."""

    @workflow()
    async def asks(ctx: Context, _: Any) -> str:
        try:
            await ctx.approve("spend", timeout=HOUR)
        except WaitTimeoutError:
            await ctx.sleep(HOUR)
            return "nobody decided"
        return "decided"

    runtime = lab.runtime(asks)
    handle = await runtime.start_run(asks, run_id="run")
    await lab.sweep(asks)
    lab.advance(hours=1)
    await lab.sweep(asks)
    assert (await runtime.deliver_approval("run", "spend", approved=True)).kind == "buffered"
    assert await run_to_completion(runtime, handle, lab.clock) == "nobody decided"


async def test_signals_and_approvals_of_one_name_do_not_meet(lab: Lab) -> None:
    """Two kinds, two inboxes as far as the handler can tell."""

    @workflow()
    async def both(ctx: Context, _: Any) -> Any:
        decision, signal = await asyncio.gather(ctx.approve("x"), ctx.wait_for_event("x"))
        return [decision.approved, signal]

    runtime = lab.runtime(both)
    handle = await runtime.start_run(both, run_id="run")
    await lab.sweep(both)
    await runtime.deliver_signal("run", "x", {"approved": False})
    await lab.sweep(both)
    assert await lab.status("run") is RunStatus.PAUSED
    await runtime.deliver_approval("run", "x", approved=True)
    await lab.sweep(both)
    assert await handle.result() == [True, {"approved": False}]


async def waits_beside_a_step(lab: Lab, gate: Gate) -> Any:
    @workflow()
    async def beside(ctx: Context, _: Any) -> Any:
        step = asyncio.create_task(ctx.step(gate.pass_through))
        answer = await ctx.wait_for_event("answer")
        await ctx.emit("heard", answer)
        return [answer, await step]

    return beside


async def test_signal_reaches_a_driven_run_at_once_within_the_process(lab: Lab, gate: Gate) -> None:
    """No heartbeat is needed: the clock stands still."""
    beside = await waits_beside_a_step(lab, gate)
    runtime = lab.runtime(beside)
    handle = await runtime.start_run(beside, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        await runtime.deliver_signal("run", "answer", 42)
        await lab.until(lambda: any(event.kind == "emitted" for event in lab.data.runs["run"].events))
        gate.opened.set()
    assert await handle.result() == [42, "passed"]


async def test_signal_reaches_a_driven_run_by_its_heartbeat(lab: Lab, gate: Gate) -> None:
    """From another process: within a third of the lease."""
    beside = await waits_beside_a_step(lab, gate)
    runtime, elsewhere = lab.runtime(beside), lab.runtime(beside)
    handle = await runtime.start_run(beside, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        await elsewhere.deliver_signal("run", "answer", 42)
        await asyncio.sleep(0.01)
        assert "emitted" not in str(await lab.log("run"))
        lab.advance(seconds=10)
        await lab.until(lambda: any(event.kind == "emitted" for event in lab.data.runs["run"].events))
        gate.opened.set()
    assert await handle.result() == [42, "passed"]


async def test_deadline_of_a_wait_passes_while_a_step_runs_beside_it(lab: Lab, gate: Gate) -> None:
    """A run that is being driven keeps its own time."""

    @workflow()
    async def beside(ctx: Context, _: Any) -> Any:
        step = asyncio.create_task(ctx.step(gate.pass_through))
        with pytest.raises(WaitTimeoutError):
            await ctx.wait_for_event("never", timeout=HOUR)
        await ctx.emit("gave up")
        return await step

    runtime = lab.runtime(beside)
    handle = await runtime.start_run(beside, run_id="run")
    async with lab.driving(runtime):
        await gate.reached.wait()
        lab.advance(hours=1)
        await lab.until(lambda: any(event.kind == "emitted" for event in lab.data.runs["run"].events))
        gate.opened.set()
    assert await handle.result() == "passed"


async def test_more_signals_than_a_claim_brings(lab: Lab) -> None:
    """The rest of a long inbox is read page by page; nothing is skipped, nothing comes twice."""

    @workflow()
    async def collects(ctx: Context, count: int) -> list[Any]:
        return [await ctx.wait_for_event("item") for _ in range(count)]

    runtime = lab.runtime(collects)
    handle = await runtime.start_run(collects, 2_300, run_id="run")
    for number in range(2_300):
        await runtime.deliver_signal("run", "item", number)
    assert await run_to_completion(runtime, handle, lab.clock) == list(range(2_300))


async def test_unwanted_signals_do_not_keep_a_run_busy(lab: Lab) -> None:
    """They stay in the inbox, and the run pauses beside them."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("wanted")

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits, run_id="run")
    for _ in range(3):
        assert (await runtime.deliver_signal("run", "unwanted")).kind == "buffered"
        await run_until_blocked(runtime, max_sweeps=3)
        assert await lab.status("run") is RunStatus.PAUSED
    await runtime.deliver_signal("run", "wanted", 1)
    assert await run_to_completion(runtime, handle, lab.clock) == 1


async def test_names_as_long_as_ids_may_be(lab: Lab) -> None:
    """512 bytes can be waited for, approved and emitted, although the step id is made of the name."""
    long, longer = "é" * 255 + "ab", "é" * 255 + "ac"

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        await ctx.emit(long)
        await ctx.emit(long)
        decision = await ctx.approve(long)
        found = [await ctx.wait_for_event(name) for name in (long, longer, long)]
        return [decision.approved, *found]

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits, run_id="run")
    await runtime.deliver_approval("run", long, approved=True)
    for name, payload in ((long, 1), (longer, 2), (long, 3)):
        await runtime.deliver_signal("run", name, payload)
    assert await run_to_completion(runtime, handle, lab.clock) == [True, 1, 2, 3]
    ids = [event.step_id for event in await lab.events("run") if event.step_id]
    assert len(set(ids)) == 6
    assert all(len(step_id.encode()) <= 512 for step_id in ids)
