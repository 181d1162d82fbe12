"""Replays: equal to the first execution, whatever happened in between; or a clear error."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    Context,
    NonDeterminismError,
    RetryPolicy,
    RunAbortedError,
    RunStatus,
    StepFailedError,
    StoreOperationError,
    WaitTimeoutError,
    Workflow,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.engine.handler_outcome import Finished
from workflow_runtime.testing import run_to_completion, run_until_blocked

if TYPE_CHECKING:
    from conftest import Gate, Lab

SECOND = timedelta(seconds=1)


async def echo(value: Any) -> Any:
    return value


# Random programs. A program is nested lists, so that it can be the run's input and printed when a seed fails.


class Author:
    """Writes a random program: steps, sleeps and waits, in sequences, branches and races."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.numbered = 0

    def write(self, depth: int) -> list[Any]:
        kinds = ["step", "step", "flaky", "sleep", "wait", "value", "emit"]
        if depth > 0:
            kinds += ["sequence", "gather", "group", "race", "gather", "sequence"]
        kind = self.rng.choice(kinds)
        if kind in ("sequence", "gather", "group", "race"):
            return [kind, *(self.write(depth - 1) for _ in range(self.rng.randint(2, 4)))]
        self.numbered += 1
        # No two moments are the same: what happens at once happens in no particular order.
        milliseconds = self.rng.randrange(0, 6) * 1000 + self.rng.randrange(1000)
        return [kind, self.numbered, self.rng.random() < 0.5, milliseconds, self.rng.choice("xyz")]

    def signals(self) -> list[tuple[int, str]]:
        return sorted((self.rng.randrange(15_000), self.rng.choice("xyz")) for _ in range(self.rng.randint(0, 8)))


class Programs:
    """Runs programs, and watches their steps while they run."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.executions: Counter[tuple[str, int]] = Counter()

        @workflow(id="program")
        async def program(ctx: Context, source: list[Any]) -> Any:
            return await self.perform(ctx, source)

        @workflow(id="program")
        async def accompanied(ctx: Context, source: list[Any]) -> Any:
            company = asyncio.create_task(ctx.step.options(id="company")(self.gate_body))
            result = await self.perform(ctx, source)
            await ctx.emit("end of the program", result)
            await company
            return result

        self.program: Workflow[Any, Any] = program
        self.accompanied: Workflow[Any, Any] = accompanied
        self.gate: Gate | None = None

    async def gate_body(self) -> None:
        assert self.gate is not None
        await self.gate.pass_through()

    async def perform(self, ctx: Context, source: list[Any]) -> Any:
        kind, *parts = source
        match kind:
            case "sequence":
                return [await self.perform(ctx, part) for part in parts]
            case "gather":
                return await asyncio.gather(*(self.perform(ctx, part) for part in parts))
            case "group":
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(self.perform(ctx, part)) for part in parts]
                return [task.result() for task in tasks]
            case "race":
                tasks = [asyncio.create_task(self.perform(ctx, part)) for part in parts]
                try:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                finally:  # also when this race itself is given up
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)
                return [[tasks.index(task), task.result()] for task in done]
            case _:
                return await self.operate(ctx, kind, *parts)

    async def operate(self, ctx: Context, kind: str, number: int, named: bool, milliseconds: int, name: str) -> Any:
        step_id = f"explicit-{number}" if named else None
        duration = timedelta(milliseconds=milliseconds)
        match kind:
            case "step":
                return await ctx.step.options(id=step_id)(self.body, number, 0)
            case "flaky":
                policy = RetryPolicy(max_attempts=2, backoff=fixed_backoff(duration), jitter=0)
                try:
                    return await ctx.step.options(id=step_id, retry=policy)(self.body, number, milliseconds % 3)
                except StepFailedError as error:
                    return str(error)
            case "sleep":
                await ctx.sleep(duration, id=step_id)
                return "slept"
            case "wait":
                try:
                    return await ctx.wait_for_event(name, timeout=duration, id=step_id)
                except WaitTimeoutError as error:
                    return str(error)
            case "value":
                return str(await ctx.now())
            case _:
                return await ctx.emit(name, number)

    async def body(self, number: int, failures: int) -> tuple[int, int]:
        info = step_info()
        self.executions[info.step_id, info.attempt] += 1
        records = [e.kind for e in self.lab.data.runs["run"].events if e.step_id == info.step_id]
        assert records == ["step-retrying"] * (info.attempt - 1), "a step ran after its record was written"
        for _ in range(number % 5):
            await asyncio.sleep(0)
        if info.attempt <= failures:
            raise ConnectionError(f"attempt {info.attempt}")
        return (number, info.attempt)

    async def signal(self, at_ms: int, name: str, start_ms: int) -> None:
        self.lab.clock.advance_to_ms(start_ms + at_ms)
        await self.lab.runtime().deliver_signal("run", name, f"{name} at {at_ms}")

    async def run_with_pauses(self, source: Any, signals: list[tuple[int, str]]) -> Any:
        """Let another worker drive the run after each pause, and replay it from the start."""
        start_ms = self.lab.clock.now_ms()
        handle = await self.lab.runtime(self.program).start_run(self.program, source, run_id="run")
        for at_ms, name in [*signals, (None, "")]:
            while True:
                await run_until_blocked(self.lab.runtime(self.program))
                due_ms = (await self.lab.load("run")).due_at_ms
                if due_ms is None or (at_ms is not None and due_ms > start_ms + at_ms):
                    break
                self.lab.clock.advance_to_ms(due_ms)
            if at_ms is not None:
                await self.signal(at_ms, name, start_ms)
        return await handle.result(timeout=SECOND)

    async def run_undisturbed(self, source: Any, signals: list[tuple[int, str]], gate: Gate) -> Any:
        """Keep the run with one driver from its start to its end: a step that lasts forbids every pause."""
        self.gate = gate
        start_ms = self.lab.clock.now_ms()
        runtime = self.lab.runtime(self.accompanied, lease=timedelta(days=1))
        handle = await runtime.start_run(self.accompanied, source, run_id="run")
        async with self.lab.driving(runtime):
            for at_ms, name in [*signals, (None, "")]:
                while True:
                    await self.settled()
                    due_ms = min((t.fire_at_ms for t in self.lab.data.runs["run"].timers.values()), default=None)
                    if due_ms is None or (at_ms is not None and due_ms > start_ms + at_ms):
                        break
                    self.lab.clock.advance_to_ms(due_ms)
                if at_ms is not None:
                    self.lab.clock.advance_to_ms(start_ms + at_ms)
                    await runtime.deliver_signal("run", name, f"{name} at {at_ms}")
            assert self.lab.data.runs["run"].lease_number == 1
            gate.opened.set()
        return await handle.result(timeout=SECOND)

    async def settled(self) -> None:
        """Wait until the driver has nothing left to do at this moment."""
        before, quiet = -1, 0
        while quiet < 30:
            await asyncio.sleep(0)
            run = self.lab.data.runs["run"]
            now = hash((run.next_index, tuple(run.timers.items()), sum(self.executions.values())))
            quiet, before = (quiet + 1, now) if now == before else (0, now)


@pytest.mark.parametrize("seed", range(60, 75))
async def test_random_program_gives_the_same_in_the_smallest_turns(
    lab: Lab, gate: Gate, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the application's event loop goes on after each callback of the handler, nothing else comes of it."""
    author = Author(seed)
    source = ["sequence", *(author.write(3) for _ in range(3))]
    signals = author.signals()
    expected = await Programs(lab).run_undisturbed(source, signals, gate)
    monkeypatch.setattr("workflow_runtime.engine.handler_turns._TURN_S", 0.0)
    assert await Programs(type(lab)()).run_with_pauses(source, signals) == expected


@pytest.mark.parametrize("seed", range(60))
async def test_random_program_gives_the_same_with_and_without_pauses(lab: Lab, gate: Gate, seed: int) -> None:
    """A driver that never lets go and one worker after another come to the same result; each attempt runs once."""
    author = Author(seed)
    source = ["sequence", *(author.write(3) for _ in range(3))]
    signals = author.signals()
    undisturbed = Programs(lab)
    expected = await undisturbed.run_undisturbed(source, signals, gate)

    other = type(lab)()
    paused = Programs(other)
    assert await paused.run_with_pauses(source, signals) == expected
    assert set(undisturbed.executions.values()) | set(paused.executions.values()) <= {1}
    assert await other.replayed(paused.program, "run") == Finished(expected)


@pytest.mark.parametrize("seed", range(60))
async def test_random_program_survives_crashes_anywhere(lab: Lab, seed: int) -> None:
    """The store fails for good before or after any write; the next worker finds a history that the handler fits."""
    author = Author(seed)
    source = ["sequence", *(author.write(3) for _ in range(2))]
    programs = Programs(lab)
    dice = random.Random(seed)
    crashes = 0

    async def crash(verb: str, arguments: dict[str, Any]) -> None:
        nonlocal crashes
        if verb.startswith(("append", "mark")) and dice.random() < 0.2:
            crashes += 1
            raise StoreOperationError("the worker is gone")

    handle = await lab.runtime(programs.program).start_run(programs.program, source, run_id="run")
    for name in "xyz":
        await lab.runtime().deliver_signal("run", name, name)
    while (run := await handle.load()).status is not RunStatus.FINISHED:
        assert run.status in (RunStatus.QUEUED, RunStatus.RUNNING, RunStatus.PAUSED)
        store = lab.tapped()
        store.before = store.after = crash
        await lab.runtime(programs.program, store=store, max_crashes=1_000).sweep(limit=1)
        run = await handle.load()
        lab.clock.advance_to_ms(run.due_at_ms or run.lease_expires_at_ms or 0)
    outcome = await lab.replayed(programs.program, "run")
    assert outcome == Finished(await handle.result())
    assert max(programs.executions.values(), default=1) <= crashes + 1


async def test_random_programs_do_what_they_are_meant_to_test(lab: Lab) -> None:
    """The seeds above pause, race, retry and time out: otherwise they would prove little."""
    found: Counter[str] = Counter()
    for seed in range(12):
        lab = type(lab)()
        author = Author(seed)
        source = ["sequence", *(author.write(3) for _ in range(3))]
        await Programs(lab).run_with_pauses(source, author.signals())
        found.update(event.kind for event in await lab.events("run"))
        found["pauses"] += lab.data.runs["run"].lease_number
        found["races"] += str(source).count("race")
    assert found["pauses"] > 60
    wanted = ("races", "step-retrying", "step-failed", "wait-timed-out", "signal-received", "sleep-ended", "emitted")
    assert [kind for kind in wanted if found[kind] < 3] == []


# Divergence.


async def diverge(lab: Lab, before: Any, after: Any) -> NonDeterminismError:
    """Begin a run with one handler, go on with another one, and give the error that ends it."""

    def declare(body: Any) -> Workflow[Any, Any]:
        @workflow(id="changed")
        async def changed(ctx: Context, _: Any) -> Any:
            return await body(ctx)

        return changed

    first, second = declare(before), declare(after)
    handle = await lab.runtime(first).start_run(first, run_id="run")
    await lab.sweep(first)
    log = await lab.log("run")
    runtime = lab.runtime(second)
    await runtime.deliver_signal("run", "go", "went")
    with pytest.raises(RunAbortedError) as failure:
        await run_to_completion(runtime, handle, lab.clock)
    assert await lab.status("run") is RunStatus.DEAD
    assert await lab.log("run") == [*log, "run-parked"]
    with pytest.raises(NonDeterminismError) as error:
        await lab.replayed(second, "run")
    assert str(error.value) == failure.value.reason
    await goes_on_after_a_rollback(lab, first, second)
    return error.value


async def goes_on_after_a_rollback(lab: Lab, first: Workflow[Any, Any], second: Workflow[Any, Any]) -> None:
    """Whichever way it is brought back: on the wrong code it is parked again, on the right code it ends well."""
    for bring_back in ("requeue_run", "retry_run"):
        runtime = lab.runtime(second)
        await getattr(runtime, bring_back)("run")
        report = await runtime.sweep()
        assert list(report.dead) == ["run"]
        assert report.outcomes == {"dead": 1}
    runtime = lab.runtime(first)
    await runtime.requeue_run("run")
    await run_to_completion(runtime, runtime.attach("run"), lab.clock)
    assert await lab.status("run") is RunStatus.FINISHED
    run = await lab.load("run")
    assert (run.error, run.reason) == (None, None)


async def step_then_wait(ctx: Context) -> None:
    await ctx.step.options(id="charge")(echo, 1)
    await ctx.wait_for_event("go")


async def test_another_kind_of_operation(lab: Lab) -> None:
    """Recorded as a step, called as a sleep."""

    async def after(ctx: Context) -> None:
        await ctx.sleep(SECOND, id="charge")

    error = await diverge(lab, step_then_wait, after)
    assert (error.run_id, error.step_id) == ("run", "charge")
    assert error.recorded == "step 'charge' (step-completed)"
    assert error.called == "sleep 'charge'"


async def test_another_id(lab: Lab) -> None:
    """The recorded id is not asked for; what is asked for instead is named."""

    async def after(ctx: Context) -> None:
        await ctx.step.options(id="pay")(lab.ran.update, ["pay"])

    error = await diverge(lab, step_then_wait, after)
    assert error.recorded == "step 'charge' (step-completed)"
    assert error.called == "nothing of that id, but step 'pay'"
    assert lab.ran == {}


async def test_missing_operation(lab: Lab) -> None:
    """The handler goes past what was recorded."""

    async def after(ctx: Context) -> None:
        await ctx.wait_for_event("go")

    error = await diverge(lab, step_then_wait, after)
    assert error.called == "nothing of that id, but wait 'wait:go'"


async def test_handler_that_ends_earlier(lab: Lab) -> None:
    """It would finish although its history goes on."""

    async def after(ctx: Context) -> str:
        await ctx.step.options(id="charge")(echo, 1)
        return "early"

    error = await diverge(lab, step_then_wait, after)
    assert error.recorded == "wait 'wait:go' (wait-started)"
    assert error.called == "nothing of that id: the handler has ended"


async def test_operation_that_was_given_up(lab: Lab) -> None:
    """It has a record, but its branch was cancelled before the record's turn came."""

    async def after(ctx: Context) -> None:
        charge = asyncio.create_task(ctx.step.options(id="charge")(echo, 1))
        await asyncio.sleep(0)
        charge.cancel()
        await ctx.wait_for_event("go")

    error = await diverge(lab, step_then_wait, after)
    assert error.recorded == "step 'charge' (step-completed)"
    assert error.called == "step 'charge', but does not wait for it any more"


async def test_handler_that_waits_for_nothing_durable(lab: Lab) -> None:
    """It hangs before it reaches what was recorded."""

    async def after(ctx: Context) -> None:
        await asyncio.Event().wait()

    error = await diverge(lab, step_then_wait, after)
    assert error.called == "nothing of that id, but nothing durable at all"


async def test_wait_for_another_name(lab: Lab) -> None:
    """Same id, other name: the answer would go to a question that nobody asked."""

    async def before(ctx: Context) -> None:
        await ctx.wait_for_event("go", id="gate")

    async def after(ctx: Context) -> None:
        await ctx.wait_for_event("stop", id="gate")

    error = await diverge(lab, before, after)
    assert (error.step_id, error.recorded, error.called) == ("gate", "wait for 'go'", "wait for 'stop'")


async def test_divergence_among_branches(lab: Lab) -> None:
    """Swapped branches whose ids are automatic do not find their records under the other one's kind."""

    async def before(ctx: Context) -> None:
        await asyncio.gather(ctx.wait_for_event("go", id="one"), ctx.sleep(SECOND, id="two"))

    async def after(ctx: Context) -> None:
        await asyncio.gather(ctx.wait_for_event("go", id="two"), ctx.sleep(SECOND, id="one"))

    error = await diverge(lab, before, after)
    assert error.recorded == "wait 'one' (wait-started)"
    assert error.called == "sleep 'one'"


async def test_handler_cannot_catch_the_divergence(lab: Lab) -> None:
    """It is found outside of the handler, whose `except` blocks do not get it."""

    async def after(ctx: Context) -> str:
        try:
            await ctx.step.options(id="pay")(echo, 1)
        except Exception:  # noqa: BLE001  # what the test is about
            return "caught"
        return "paid"

    await diverge(lab, step_then_wait, after)


async def test_addition_behind_the_history_is_no_divergence(lab: Lab) -> None:
    """A run that waits may go on with new code after the wait."""

    @workflow(id="grows")
    async def before(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("go")

    @workflow(id="grows")
    async def after(ctx: Context, _: Any) -> Any:
        return [await ctx.wait_for_event("go"), await ctx.step(echo, "new")]

    handle = await lab.runtime(before).start_run(before, run_id="run")
    await lab.sweep(before)
    runtime = lab.runtime(after)
    await runtime.deliver_signal("run", "go", 1)
    assert await run_to_completion(runtime, handle, lab.clock) == [1, "new"]


async def test_history_longer_than_a_claim_brings_is_read_to_its_end(lab: Lab) -> None:
    """By number of events and by size; every event is applied once."""

    @workflow()
    async def long(ctx: Context, _: Any) -> Any:
        numbers = [await ctx.step(echo, number) for number in range(1_500)]
        texts = [await ctx.step(echo, "x" * 300_000) for _ in range(8)]
        await ctx.wait_for_event("go")
        return [sum(numbers), sum(len(text) for text in texts)]

    runtime = lab.runtime(long)
    handle = await runtime.start_run(long, run_id="run")
    await run_until_blocked(runtime)
    store = lab.tapped()
    another = lab.runtime(long, store=store)
    await another.deliver_signal("run", "go")
    assert await run_to_completion(another, handle, lab.clock) == [sum(range(1_500)), 2_400_000]
    assert store.calls.count("read_events") > 2
