"""`ctx.transaction` on real stores: a business row and its record are there together, exactly once, or not at all."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime import (
    NO_RETRY,
    Context,
    LeaseLostError,
    RetryPolicy,
    RunFailedError,
    StepFailedError,
    StoreUnavailableError,
    TestClock,
    Workflow,
    WorkflowRuntime,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_runtime.testing import run_to_completion
from workflow_test_support.workloads.shop import (
    Shop,
    add_sale,
    kinds,
    postgres_shop,
    read_log,
    replayed,
    sell,
    sqlite_shop,
)

PATIENCE_S = 30
QUICK = RetryPolicy(max_attempts=3, backoff=fixed_backoff(timedelta(0)))

Function = Callable[..., Awaitable[Any]]


@pytest.fixture(params=["sqlite", "postgres"])
async def shop(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Shop]:
    if request.param == "sqlite":
        opening = sqlite_shop(str(tmp_path / "shop.db"))
    else:
        opening = postgres_shop(request.getfixturevalue("databases"))
    async with opening as opened, asyncio.timeout(PATIENCE_S):
        yield opened


@pytest.fixture
async def store(shop: Shop) -> AsyncIterator[Any]:
    async with shop.open() as opened:
        yield opened


def selling(function: Function, **options: Any) -> Workflow[Any, Any]:
    """A workflow of one transaction."""

    @workflow(id="sale", retry=QUICK)
    async def sale(ctx: Context, key: str) -> Any:
        return await ctx.transaction.options(**options)("pay", function, key)

    return sale


def runtime_on(store: Any, *workflows: Workflow[Any, Any], **options: Any) -> WorkflowRuntime:
    return WorkflowRuntime(store=store, workflows=workflows, **options)


async def failure_of(runtime: WorkflowRuntime, sale: Workflow[Any, Any]) -> RunFailedError:
    handle = await runtime.run_here(sale, "a", run_id="a")
    with pytest.raises(RunFailedError) as failed:
        await handle.result()
    return failed.value


@pytest.mark.parametrize(
    "error", [SystemExit(2), GeneratorExit(), StopAsyncIteration(), asyncio.CancelledError()], ids=repr
)
async def test_whatever_a_function_raises_rolls_back_and_is_a_failed_attempt(
    shop: Shop, store: Any, error: BaseException
) -> None:
    """Also what would end an event loop, or look like the end of a generator on the way through the store."""
    attempts: list[str] = []

    async def exits(tx: Any, key: str) -> None:
        attempts.append(key)
        await sell(tx, key)
        raise error

    sale = selling(exits)
    clock = TestClock()
    runtime = WorkflowRuntime(store=store, workflows=[sale], clock=clock)
    handle = await runtime.start_run(sale, "k")
    with pytest.raises(RunFailedError, match=f"failed after 3 attempts: {type(error).__name__}"):
        await run_to_completion(runtime, handle, clock)
    assert attempts == ["k"] * 3
    assert await shop.sales() == []


async def test_row_and_record_are_there_together(shop: Shop, store: Any) -> None:
    sale = selling(sell)
    handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
    assert await handle.result() == "sold a"
    assert await shop.sales() == ["a"]
    assert await kinds(store, "a") == ["step-completed pay", "run-finished"]
    assert await replayed(store, sale, "a") == "sold a"


async def test_function_knows_its_step(store: Any) -> None:
    async def look(tx: Any, key: str) -> list[Any]:
        return [step_info().step_id, step_info().attempt, len(step_info().idempotency_key)]

    sale = selling(look)
    assert await (await runtime_on(store, sale).run_here(sale, "a")).result() == ["pay", 1, 32]


async def test_failed_attempt_leaves_nothing_and_is_repeated(shop: Shop, store: Any) -> None:
    async def sell_at_last(tx: Any, key: str) -> str:
        sold = await sell(tx, f"{key}{step_info().attempt}")
        if step_info().attempt < 3:
            raise ConnectionError("the till is stuck")
        return sold

    sale, clock = selling(sell_at_last), TestClock()
    runtime = runtime_on(store, sale, clock=clock)
    handle = await runtime.start_run(sale, "a", run_id="a")
    assert await run_to_completion(runtime, handle, clock) == "sold a3"
    assert await shop.sales() == ["a3"]
    assert await kinds(store, "a") == ["step-retrying pay", "step-retrying pay", "step-completed pay", "run-finished"]


async def test_error_of_the_database_is_the_function_s_own(shop: Shop, store: Any) -> None:
    async def break_a_rule(tx: Any, key: str) -> None:
        await sell(tx, key)
        if shop.kind == "sqlite":
            await tx.execute("INSERT INTO sales VALUES (NULL)")
        else:
            await tx.execute("INSERT INTO sales VALUES ($1)", None)

    sale = selling(break_a_rule, retry=NO_RETRY)
    failed = await failure_of(runtime_on(store, sale), sale)
    expected = {"sqlite": "D1DatabaseError", "postgres": "NotNullViolationError"}[shop.kind]
    assert f"step 'pay' failed after 1 attempt: {expected}" in str(failed)
    assert await shop.sales() == []


async def test_result_that_json_cannot_carry_undoes_the_sale(shop: Shop, store: Any) -> None:
    async def sell_something_odd(tx: Any, key: str) -> object:
        await sell(tx, key)
        return {1, 2}

    sale = selling(sell_something_odd)
    assert "InvalidPayloadError" in str(await failure_of(runtime_on(store, sale), sale))
    assert await shop.sales() == []


async def test_lease_lost_meanwhile_undoes_the_sale(shop: Shop, store: Any) -> None:
    clock = TestClock()
    robbed = 0

    async def sell_too_late(tx: Any, key: str) -> str:
        nonlocal robbed
        if not robbed:
            robbed += 1
            clock.advance(timedelta(minutes=1))
            stolen = await store.claim_run(
                run_id=key, owner="thief", lease_ms=1_000, now_ms=clock.now_ms(), max_crashes=5
            )
            assert stolen.kind == "claimed"
        return await sell(tx, key)

    sale = selling(sell_too_late)
    runtime = runtime_on(store, sale, clock=clock)
    handle = await runtime.start_run(sale, "a", run_id="a")
    report = await runtime.sweep(limit=1)
    assert report.outcomes == {"lost": 1}
    assert await shop.sales() == []
    assert await kinds(store, "a") == []
    assert await run_to_completion(runtime, handle, clock) == "sold a"
    assert await shop.sales() == ["a"]


async def test_timeout_is_for_the_function_and_undoes_the_sale(shop: Shop, store: Any) -> None:
    async def hang(tx: Any, key: str) -> None:
        await sell(tx, key)
        await asyncio.sleep(PATIENCE_S)

    sale = selling(hang, retry=NO_RETRY, timeout=timedelta(milliseconds=50))
    assert "StepTimeoutError" in str(await failure_of(runtime_on(store, sale), sale))
    assert await shop.sales() == []


@pytest.fixture
def at_commit(store: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Have something done when the function has ended and the transaction is about to be committed."""
    commit = type(store).append_in_transaction

    def do(action: Callable[[], Awaitable[None]]) -> None:
        async def commit_after_it(self: Any, **arguments: Any) -> Any:
            work = arguments.pop("work")

            async def and_then(tx: Any) -> Any:
                write = await work(tx)
                await action()
                return write

            return await commit(self, work=and_then, **arguments)

        monkeypatch.setattr(type(store), "append_in_transaction", commit_after_it)

    return do


@pytest.fixture
def slow_commit(at_commit: Callable[[Callable[[], Awaitable[None]]], None]) -> asyncio.Event:
    """Commits take a while; the event tells that one is under way."""
    committing = asyncio.Event()

    async def dawdle() -> None:
        committing.set()
        await asyncio.sleep(0.2)

    at_commit(dawdle)
    return committing


async def test_timeout_does_not_count_the_commit(store: Any, slow_commit: asyncio.Event) -> None:
    sale = selling(sell, timeout=timedelta(milliseconds=100))
    assert await (await runtime_on(store, sale).run_here(sale, "a")).result() == "sold a"


async def test_nothing_is_decided_during_the_commit(
    shop: Shop, store: Any, at_commit: Callable[[Callable[[], Awaitable[None]]], None]
) -> None:
    """A step that ends and a timer that fires during the commit take effect behind it, in the log as well."""
    clock, committing, ended = TestClock(), asyncio.Event(), asyncio.Event()

    async def let_both_end() -> None:
        committing.set()
        clock.advance(timedelta(seconds=6))
        await ended.wait()
        for _ in range(1_000):  # turns of the event loop in which a driver that does not wait decides on both
            await asyncio.sleep(0)

    async def end_during_the_commit() -> str:
        await committing.wait()
        ended.set()
        return "ended"

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> list[Any]:
        order: list[str] = []

        async def noted(name: str, branch: Awaitable[Any]) -> None:
            await branch
            order.append(name)
            await ctx.emit(name)

        await asyncio.gather(
            noted("paid", ctx.transaction("pay", add_sale, key)),
            noted("step", ctx.step(end_during_the_commit)),
            noted("slept", ctx.sleep(timedelta(seconds=5))),
        )
        return order

    at_commit(let_both_end)
    handle = await runtime_on(store, sale, clock=clock).run_here(sale, "a", run_id="a")
    while not (await handle.load()).status.is_terminal:
        await runtime_on(store, sale, clock=clock).sweep()
    output = await handle.result()
    assert output[0] == "paid"
    assert await replayed(store, sale, "a") == output
    assert await shop.sales() == ["a"]


@pytest.mark.parametrize("how", ["cancel", "drain"])
async def test_commit_under_way_is_not_cut_off(shop: Shop, store: Any, slow_commit: asyncio.Event, how: str) -> None:
    """Its outcome would be unknown."""
    sale, stop = selling(add_sale), asyncio.Event()
    runtime = runtime_on(store, sale)
    handle = await runtime.start_run(sale, "a", run_id="a")
    no_time = timedelta(0)
    working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, drain_timeout=no_time))
    await slow_commit.wait()
    if how == "cancel":
        await runtime.cancel_run("a")
        assert (await handle.result(timeout=timedelta(seconds=PATIENCE_S))) == "sold a"
    stop.set()
    await working
    assert await shop.sales() == ["a"]
    assert (await kinds(store, "a"))[0] == "step-completed pay"


@pytest.mark.parametrize("error", [LeaseLostError("another run"), StoreUnavailableError("another store")])
async def test_store_s_errors_out_of_the_function_are_the_function_s(store: Any, error: Exception) -> None:
    """They say nothing about this run's lease, and are retried by the step's policy only."""
    calls = 0

    async def fail(tx: Any, key: str) -> None:
        nonlocal calls
        calls += 1
        raise error

    sale = selling(fail, retry=NO_RETRY)
    assert type(error).__name__ in str(await failure_of(runtime_on(store, sale), sale))
    assert calls == 1


@workflow(id="busy", retry=QUICK)
async def busy(ctx: Context, key: str) -> list[Any]:
    """Transactions beside steps, a wait, a sleep and an approval."""

    async def chain(name: str) -> list[Any]:
        first = await ctx.step.options(id=f"{name}-1")(slowly, name)
        sold = await ctx.transaction(f"{name}-2", sell_slowly, f"{key}-{name}")
        await ctx.emit(name, sold)
        return [first, sold, await ctx.step.options(id=f"{name}-3")(slowly, name)]

    async def wait() -> Any:
        got = await ctx.wait_for_event("go")
        return [got, await ctx.transaction("after-go", sell_slowly, f"{key}-go")]

    async def rest() -> str:
        await ctx.sleep(timedelta(milliseconds=20))
        return await ctx.transaction("after-rest", sell_slowly, f"{key}-rest")

    return list(await asyncio.gather(chain("x"), chain("y"), wait(), rest(), ctx.transaction("z", sell, f"{key}-z")))


def sold_by_busy(key: str) -> list[str]:
    return [f"{key}-{name}" for name in ("go", "rest", "x", "y", "z")]


_delays = random.Random(7)


async def slowly(name: str) -> str:
    await asyncio.sleep(_delays.choice([0, 0.002, 0.01]))
    return name


async def sell_slowly(tx: Any, key: str) -> str:
    sold = await sell(tx, key)
    await asyncio.sleep(_delays.choice([0, 0.002, 0.02]))
    return sold


async def test_one_connection_is_enough(shop: Shop) -> None:
    """Steps, waits and signals go on beside transactions; nothing waits for the connection that it holds itself."""
    async with shop.open(max_size=1) as store:
        runtime = runtime_on(store, busy)
        stop = asyncio.Event()
        working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
        handles = []
        for number in range(5):
            handles.append(await runtime.start_run(busy, f"{number}", run_id=f"busy-{number}"))
            for name in ("ignored", "go", "ignored"):
                await runtime.deliver_signal(f"busy-{number}", name, number)
        outputs = [await handle.result(timeout=timedelta(seconds=PATIENCE_S)) for handle in handles]
        stop.set()
        await working
        assert await shop.sales() == sorted(sale for n in range(5) for sale in sold_by_busy(f"{n}"))
        for number, output in enumerate(outputs):
            assert output[2] == [number, f"sold {number}-go"]
            assert await replayed(store, busy, f"busy-{number}") == output, "the log is in another order than it was"


async def test_ten_runs_share_two_connections(shop: Shop) -> None:
    async with shop.open(max_size=2) as store:
        runtime = runtime_on(store, busy)
        for number in range(10):
            await runtime.start_run(busy, f"{number}", run_id=f"busy-{number}")
        report_task = asyncio.create_task(runtime.sweep(concurrency=10))
        for number in range(10):
            await runtime.deliver_signal(f"busy-{number}", "go", number)
        await report_task
        handles = [runtime.attach(f"busy-{number}") for number in range(10)]
        while not all([(await handle.load()).status.is_terminal for handle in handles]):
            await runtime.sweep(concurrency=10)
            await asyncio.sleep(0.01)
        assert await shop.sales() == sorted(sale for n in range(10) for sale in sold_by_busy(f"{n}"))
        for number, handle in enumerate(handles):
            assert await replayed(store, busy, f"busy-{number}") == await handle.result()


async def test_nothing_else_is_recorded_while_one_is_open(shop: Shop, store: Any) -> None:
    """What the other branches did meanwhile is written with the transaction, before its record, in its order."""
    others_done, seen = asyncio.Event(), list[str]()

    async def sell_last(tx: Any, key: str) -> str:
        await others_done.wait()
        await asyncio.sleep(0.05)
        seen.extend(await kinds(store, "a"))
        return await sell(tx, key)

    async def finish_early() -> None:
        others_done.set()

    async def not_before_the_record() -> list[str]:
        return await kinds(store, "a")

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> Any:
        async def others() -> Any:
            await ctx.step(finish_early)
            await ctx.emit("early")
            return await ctx.step(not_before_the_record)

        return await asyncio.gather(ctx.transaction("pay", sell_last, key), others())

    handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
    written = ["step-completed finish_early", "emitted emit:early", "step-completed pay"]
    assert seen == []
    assert await handle.result() == ["sold a", written]
    assert await shop.sales() == ["a"]


async def test_failed_commit_keeps_what_the_others_did(shop: Shop, store: Any) -> None:
    """A transaction that fails takes nothing of the other branches with it."""
    others_done = asyncio.Event()

    async def fail(tx: Any, key: str) -> str:
        await others_done.wait()
        await asyncio.sleep(0.02)
        await sell(tx, key)
        raise LookupError("no till")

    async def finish_early() -> str:
        others_done.set()
        return "early"

    @workflow(id="sale", retry=NO_RETRY)
    async def sale(ctx: Context, key: str) -> Any:
        async def pay() -> str:
            try:
                return await ctx.transaction("pay", fail, key)
            except StepFailedError as error:
                return error.error_type

        return await asyncio.gather(pay(), ctx.step(finish_early))

    handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
    assert await handle.result() == ["LookupError", "early"]
    assert (await kinds(store, "a"))[:2] == ["step-completed finish_early", "step-failed pay"]
    assert await shop.sales() == []


async def test_unit_that_fills_up_meanwhile_waits_quietly(shop: Shop, store: Any) -> None:
    """More events than a unit takes, a timer that comes due and a step that ends, all before the transaction does."""
    begun = asyncio.Event()
    settled = 0

    async def sell_last(tx: Any, key: str) -> str:
        begun.set()
        await asyncio.sleep(0.3)
        return await sell(tx, key)

    async def begin() -> None:
        await begun.wait()

    async def end_late() -> None:
        await begun.wait()
        await asyncio.sleep(0.1)

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> Any:
        async def others() -> int:
            await ctx.step(begin)
            sleeping = asyncio.gather(ctx.sleep(timedelta(milliseconds=50)), ctx.sleep(timedelta(milliseconds=60)))
            for number in range(120):
                await ctx.emit("noise", number)
            await sleeping
            return 120

        paid, _, noise = await asyncio.gather(ctx.transaction("pay", sell_last, key), ctx.step(end_late), others())
        return [paid, noise]

    from workflow_runtime.engine.settler import Settler  # noqa: PLC0415  # counts how often there was a turn

    settle = Settler.settle

    def counted(self: Settler, *arguments: Any) -> bool:
        nonlocal settled
        settled += 1
        return settle(self, *arguments)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Settler, "settle", counted)
        handle = await runtime_on(store, sale).start_run(sale, "a", run_id="a")
        runtime = runtime_on(store, sale)
        while not (await handle.load()).status.is_terminal:
            await runtime.sweep()
            await asyncio.sleep(0.005)
    assert await handle.result() == ["sold a", 120]
    assert settled < 60, "the driver went round and round"
    log = await read_log(store, "a")
    assert Counter(event.kind for event in log)["emitted"] == 120
    assert await replayed(store, sale, "a") == ["sold a", 120]


async def test_transactions_of_a_run_take_turns(shop: Shop, store: Any) -> None:
    inside = 0

    async def alone(tx: Any, key: str) -> str:
        nonlocal inside
        inside += 1
        assert inside == 1
        sold = await sell(tx, key)
        await asyncio.sleep(0.005)
        inside -= 1
        return sold

    @workflow(id="sale", retry=NO_RETRY)
    async def sale(ctx: Context, count: int) -> Any:
        return await asyncio.gather(*(ctx.transaction(f"pay-{n}", alone, f"{n}") for n in range(count)))

    handle = await runtime_on(store, sale).run_here(sale, 6)
    assert await handle.result() == [f"sold {n}" for n in range(6)]
    assert len(await shop.sales()) == 6


def _hanging(write: Function, *, swallow: bool, linger_s: float = 0.0) -> tuple[Function, asyncio.Event, asyncio.Event]:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def hang(tx: Any, key: str) -> str:
        await write(tx, key)
        begun.set()
        try:
            await asyncio.sleep(PATIENCE_S)
        except asyncio.CancelledError:
            if not swallow:
                raise
            await asyncio.sleep(linger_s)
        finally:
            ended.set()
        return "went on regardless"

    return hang, begun, ended


@pytest.mark.parametrize("swallow", [False, True])
async def test_cancelled_run_undoes_the_sale(shop: Shop, store: Any, swallow: bool) -> None:
    """Also where the function swallows the cancellation: nobody waits for its record any more."""
    hang, begun, _ = _hanging(add_sale, swallow=swallow)
    sale = selling(hang)
    runtime = runtime_on(store, sale)
    driving = asyncio.create_task(runtime.run_here(sale, "a", run_id="a"))
    await begun.wait()
    await runtime.cancel_run("a")
    handle = await driving
    assert await handle.status() == "aborted"
    assert await shop.sales() == []
    assert "step-completed pay" not in await kinds(store, "a")


@pytest.mark.parametrize("swallow", [False, True])
async def test_abandoned_transaction_is_undone(shop: Shop, store: Any, swallow: bool) -> None:
    """A branch that the handler gives up rolls back, and the run goes on."""
    hang, begun, ended = _hanging(sell, swallow=swallow)

    async def wait_for_the_other() -> None:
        await begun.wait()

    async def later() -> str:
        await ended.wait()
        return "later"

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> str:
        paying = asyncio.ensure_future(ctx.transaction("pay", hang, key))
        await ctx.step(wait_for_the_other)
        paying.cancel()
        await asyncio.wait([paying])
        again = await ctx.transaction("pay-again", sell, f"{key}-again")
        return f"{again}, {await ctx.step(later)}"

    handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
    assert await handle.result() == "sold a-again, later"
    assert await shop.sales() == ["a-again"]
    assert await replayed(store, sale, "a") == "sold a-again, later"


async def test_abandoned_transaction_does_not_open_the_gate_of_another(
    shop: Shop, store: Any, slow_commit: asyncio.Event
) -> None:
    """It ends while another one is being committed: still nothing is decided before that has ended."""
    begun = asyncio.Event()

    async def clean_up_slowly(tx: Any, key: str) -> None:
        begun.set()
        try:
            await asyncio.sleep(PATIENCE_S)
        finally:
            await slow_commit.wait()

    async def wait_for_the_other() -> None:
        await begun.wait()

    async def end_during_the_commit() -> str:
        await slow_commit.wait()
        await asyncio.sleep(0.05)
        return "ended"

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> list[str]:
        given_up = asyncio.ensure_future(ctx.transaction("give-up", clean_up_slowly, key))
        await ctx.step(wait_for_the_other)
        given_up.cancel()
        await asyncio.wait([given_up])
        return list(await asyncio.gather(ctx.transaction("pay", add_sale, key), ctx.step(end_during_the_commit)))

    handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
    assert await handle.result() == ["sold a", "ended"]
    assert await replayed(store, sale, "a") == ["sold a", "ended"]
    assert await shop.sales() == ["a"]


@pytest.mark.parametrize("swallow", [False, True])
async def test_handler_that_ends_first_undoes_the_sale(shop: Shop, swallow: bool) -> None:
    """With the only connection in the hands of the transaction the run can end all the same: with an error."""
    async with shop.open(max_size=1) as store:
        hang, begun, _ = _hanging(sell, swallow=swallow)

        async def wait_for_the_other() -> None:
            await begun.wait()

        @workflow(id="sale")
        async def sale(ctx: Context, key: str) -> str:
            paying = asyncio.ensure_future(ctx.transaction("pay", hang, key))
            await ctx.step(wait_for_the_other)
            return f"done {paying.done()}"

        handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
        with pytest.raises(RunFailedError, match="step 'pay' was still going on"):
            await handle.result()
        assert await shop.sales() == []
        assert await kinds(store, "a") == ["step-completed wait_for_the_other", "run-errored"]


async def test_function_that_ends_while_its_call_is_cancelled_commits(shop: Shop, store: Any) -> None:
    """It swallows the cancellation: what it has done is recorded with the sale, and its run is handed over."""
    hang, begun, _ = _hanging(sell, swallow=True)

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> list[str]:
        return [await ctx.transaction("pay", hang, key), await ctx.transaction("tip", sell, f"{key}-tip")]

    driving = asyncio.create_task(runtime_on(store, sale).run_here(sale, "a", run_id="a"))
    await begun.wait()
    driving.cancel()
    await asyncio.wait([driving])
    assert (await shop.sales(), await kinds(store, "a")) == (["a"], ["step-completed pay"])
    assert await runtime_on(store, sale).attach("a").status() == "queued"


async def test_nothing_is_committed_in_the_middle_of_a_turn_of_the_handler(
    shop: Shop, store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the handler's turn takes several of the event loop, it may yet give the transaction up."""
    monkeypatch.setattr("workflow_runtime.engine.handler_turns._TURN_S", 0.0)
    begun, resumed = asyncio.Event(), asyncio.Event()

    async def sell_when_resumed(tx: Any, key: str) -> str:
        sold = await sell(tx, key)
        begun.set()
        await resumed.wait()
        return sold

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> str:
        paying = asyncio.create_task(ctx.transaction("pay", sell_when_resumed, key))
        await ctx.step(begun.wait)
        resumed.set()
        for _ in range(2_000):
            await asyncio.sleep(0)
        paying.cancel()
        return "given up"

    handle = await runtime_on(store, sale).run_here(sale, "a", run_id="a")
    assert await handle.result() == "given up"
    assert (await shop.sales(), await kinds(store, "a")) == ([], ["step-completed wait", "run-finished"])


async def test_driver_that_is_gone_commits_nothing(shop: Shop, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function that swallows the cancellation may outlive its driver by some seconds."""
    monkeypatch.setattr("workflow_runtime.drives._HAND_OVER_S", 0.1)
    monkeypatch.setattr("workflow_runtime.drives._LEAST_HAND_OVER_S", 0.1)
    hang, begun, ended = _hanging(sell, swallow=True, linger_s=0.5)
    sale = selling(hang)
    driving = asyncio.create_task(runtime_on(store, sale).run_here(sale, "a", run_id="a"))
    await begun.wait()
    driving.cancel()
    await asyncio.wait([driving])
    await ended.wait()
    assert (await shop.sales(), await kinds(store, "a")) == ([], [])


async def test_draining_worker_lets_it_end(shop: Shop, store: Any) -> None:
    begun, release, stop = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def sell_when_told(tx: Any, key: str) -> str:
        begun.set()
        await release.wait()
        return await sell(tx, key)

    @workflow(id="sale")
    async def sale(ctx: Context, key: str) -> list[str]:
        return [await ctx.transaction("pay", sell_when_told, key), await ctx.transaction("tip", sell, f"{key}-tip")]

    runtime = runtime_on(store, sale)
    handle = await runtime.start_run(sale, "a", run_id="a")
    working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
    await begun.wait()
    stop.set()
    await asyncio.sleep(0.02)
    release.set()
    await working
    assert await shop.sales() == ["a"]
    assert await kinds(store, "a") == ["step-completed pay"]
    assert await handle.status() == "queued"
    await runtime.sweep()
    assert await handle.result() == ["sold a", "sold a-tip"]


async def test_drain_that_is_cut_short_undoes_it(shop: Shop, store: Any) -> None:
    begun, stop = asyncio.Event(), asyncio.Event()

    async def hang_once(tx: Any, key: str) -> str:
        sold = await add_sale(tx, key)
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(PATIENCE_S)
        return sold

    sale = selling(hang_once)
    runtime = runtime_on(store, sale)
    handle = await runtime.start_run(sale, "a", run_id="a")
    drain = timedelta(milliseconds=20)
    working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False, drain_timeout=drain))
    await begun.wait()
    stop.set()
    await working
    assert (await shop.sales(), await handle.status()) == ([], "queued")
    await runtime.sweep()
    assert (await shop.sales(), await handle.result()) == (["a"], "sold a")


async def test_step_may_become_a_transaction_under_running_runs(shop: Shop, store: Any) -> None:
    """The log does not tell them apart."""

    async def pay(key: str) -> str:
        return f"paid {key}"

    @workflow(id="sale")
    async def before(ctx: Context, key: str) -> str:
        paid = await ctx.step.options(id="pay")(pay, key)
        await ctx.wait_for_event("go")
        return paid

    @workflow(id="sale")
    async def after(ctx: Context, key: str) -> str:
        paid = await ctx.transaction("pay", sell, key)
        await ctx.wait_for_event("go")
        return paid

    await runtime_on(store, before).run_here(before, "a", run_id="a")
    runtime = runtime_on(store, after)
    await runtime.deliver_signal("a", "go")
    await runtime.sweep()
    assert await runtime.attach("a").result() == "paid a"
    assert await shop.sales() == []
