"""Many runs are started, and many signals delivered, in chunks, each by itself: what a program gives, and hears."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import (
    BulkReport,
    Context,
    DeliverSignal,
    InvalidArgumentError,
    InvalidPayloadError,
    PayloadTooLargeError,
    RunConflictsError,
    RunStatus,
    StartRun,
    StoreUnavailableError,
    UnknownWorkflowError,
    WorkflowRuntime,
    workflow,
)
from workflow_runtime.store import MAX_BULK_BYTES, MAX_BULK_RUNS

if TYPE_CHECKING:
    from conftest import Lab, TappedStore


@workflow(id="double")
async def double(ctx: Context, number: Any) -> Any:
    return number


@workflow(id="waiting")
async def waiting(ctx: Context, _: Any) -> Any:
    return [await ctx.wait_for_event("go"), await ctx.wait_for_event("go")]


@pytest.fixture
def tapped(lab: Lab) -> TappedStore:
    return lab.tapped()


@pytest.fixture
def runtime(lab: Lab, tapped: TappedStore) -> WorkflowRuntime:
    return lab.runtime(double, waiting, store=tapped)


def starts(count: int, prefix: str = "run") -> Iterator[StartRun[int]]:
    return (StartRun(number, run_id=f"{prefix}-{number:05}") for number in range(count))


def chunks(tapped: TappedStore, verb: str) -> list[int]:
    """Return the sizes of what the store was sent together."""
    what = {"create_runs": "runs", "deliver_signals": "signals"}[verb]
    return [len(arguments[what]) for name, arguments in tapped.arguments if name == verb]


async def test_runs_are_started_in_order(lab: Lab, runtime: WorkflowRuntime) -> None:
    later = datetime.fromtimestamp(lab.clock.now_ms() / 1000, UTC) + timedelta(hours=1)
    handles = await runtime.start_runs(
        double, [StartRun("a", run_id="first"), StartRun("b", queue="slow", priority=3, start_at=later)]
    )
    assert [handle.created for handle in handles] == [True, True]
    assert handles[0].run_id == "first"
    await runtime.sweep()
    assert await handles[0].result(timeout=timedelta(seconds=5)) == "a"
    run = await handles[1].load()
    assert (run.queue, run.priority, run.status, run.workflow_version) == ("slow", 3, RunStatus.QUEUED, double.version)
    assert run.due_at_ms == later.timestamp() * 1000


async def test_starting_again_starts_the_others(runtime: WorkflowRuntime) -> None:
    await runtime.start_run(double, 1, run_id="run-00001")
    handles = await runtime.start_runs(double, starts(3))
    assert [(handle.run_id, handle.created) for handle in handles] == [
        ("run-00000", True),
        ("run-00001", False),
        ("run-00002", True),
    ]
    assert [handle.created for handle in await runtime.start_runs("double", starts(4))] == [False] * 3 + [True]
    assert await runtime.start_runs(double, []) == []


async def test_chunks_are_sent_one_after_the_other_with_progress(
    lab: Lab, runtime: WorkflowRuntime, tapped: TappedStore
) -> None:
    given = 0
    seen: list[tuple[int, int, dict[str, int]]] = []

    async def numbers() -> AsyncIterator[StartRun[int]]:
        nonlocal given
        for start in starts(2 * MAX_BULK_RUNS + 7):
            given += 1
            yield start

    async def progress(report: BulkReport) -> None:
        seen.append((report.total, given, dict(report.outcomes)))

    await runtime.start_runs(double, starts(5))
    tapped.arguments.clear()
    handles = await runtime.start_runs(double, numbers(), on_progress=progress)
    assert [handle.run_id for handle in handles] == [start.run_id for start in starts(2 * MAX_BULK_RUNS + 7)]
    assert chunks(tapped, "create_runs") == [MAX_BULK_RUNS, MAX_BULK_RUNS, 7]
    assert seen == [
        (500, 501, {"existing": 5, "created": 495}),
        (1_000, 1_001, {"existing": 5, "created": 995}),
        (1_007, 1_007, {"existing": 5, "created": 1_002}),
    ], "a generator is asked for what goes next, and for one more"
    assert (await lab.store().count_runs())[RunStatus.QUEUED] == 1_007


async def test_large_inputs_make_small_chunks(runtime: WorkflowRuntime, tapped: TappedStore) -> None:
    text = "x" * (MAX_BULK_BYTES // 8)
    await runtime.start_runs(double, [StartRun(text) for _ in range(10)])
    assert chunks(tapped, "create_runs") == [3, 3, 3, 1]
    await runtime.start_runs(double, [StartRun(1), StartRun("x" * 1_500_000), StartRun(2)])
    assert chunks(tapped, "create_runs")[4:] == [1, 1, 1], "one that is larger than a chunk goes alone"


async def test_conflicts_hide_nothing(lab: Lab, runtime: WorkflowRuntime) -> None:
    """All others are started, also those behind; the error names each conflict, and the ids of all runs."""
    seen: list[dict[str, int]] = []

    async def progress(report: BulkReport) -> None:
        seen.append(dict(report.outcomes))

    await runtime.start_run(double, "another", run_id="run-00001")
    await runtime.start_run(waiting, 5, run_id="run-00005")
    await runtime.start_run(double, 6, run_id="run-00006")
    with pytest.raises(RunConflictsError) as caught:
        await runtime.start_runs(double, starts(MAX_BULK_RUNS + 1), on_progress=progress)
    error = caught.value
    assert [(conflict.run_id, conflict.differs) for conflict in error.conflicts] == [
        ("run-00001", ("input",)),
        ("run-00005", ("workflow_id",)),
    ]
    assert error.run_ids == tuple(start.run_id for start in starts(MAX_BULK_RUNS + 1))
    assert str(error).startswith(
        "2 of 501 runs were not started: run 'run-00001' exists already with another input; run"
    )
    assert seen == [{"created": 497, "conflict": 2, "existing": 1}, {"created": 498, "conflict": 2, "existing": 1}]
    assert (await lab.store().count_runs())[RunStatus.QUEUED] == MAX_BULK_RUNS + 1
    again = pickle.loads(pickle.dumps(error))  # our own
    assert (str(again), again.run_ids) == (str(error), error.run_ids)


async def test_bad_run_is_refused_with_those_that_go_with_it(lab: Lab, runtime: WorkflowRuntime) -> None:
    """What was sent before stays, and the error says how many that are."""
    bad: list[tuple[type[Exception], str, Any]] = [
        (InvalidPayloadError, "runs.input", StartRun({1, 2})),
        (InvalidArgumentError, "runs.run_id", StartRun(1, run_id="a" * 513)),
        (InvalidArgumentError, "runs.run_id", StartRun(1, run_id="")),
        (InvalidArgumentError, "runs.queue", StartRun(1, queue="a" * 513)),
        (InvalidArgumentError, "runs.priority", StartRun(1, priority=40_000)),
        (InvalidArgumentError, "runs.start_at", StartRun(1, start_at=datetime(2030, 1, 1))),  # noqa: DTZ001
        (InvalidArgumentError, "runs", 5),
    ]
    for number, (kind, argument, start) in enumerate(bad):
        with pytest.raises(kind) as caught:
            await runtime.start_runs(double, [*starts(MAX_BULK_RUNS + 3, f"{number}"), start])
        assert caught.value.argument == argument  # type: ignore[attr-defined]
        assert caught.value.__notes__ == [f"before this happened, the first {MAX_BULK_RUNS} of the call were done"]
    assert sum((await lab.store().count_runs()).values()) == len(bad) * MAX_BULK_RUNS
    with pytest.raises(PayloadTooLargeError, match="input"):
        await runtime.start_runs(double, [StartRun("x" * 2_000_001)])
    with pytest.raises(UnknownWorkflowError):
        await runtime.start_runs("nobody", starts(1))


async def test_store_that_goes_away_leaves_what_was_done(
    lab: Lab, runtime: WorkflowRuntime, tapped: TappedStore
) -> None:
    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if verb == "create_runs" and len(arguments["runs"]) < MAX_BULK_RUNS:
            raise StoreUnavailableError("gone")

    tapped.before = fail
    with pytest.raises(StoreUnavailableError) as caught:
        await runtime.start_runs(double, starts(MAX_BULK_RUNS + 3))
    assert caught.value.__notes__ == [f"before this happened, the first {MAX_BULK_RUNS} of the call were done"]
    assert sum((await lab.store().count_runs()).values()) == MAX_BULK_RUNS


async def test_source_of_items_is_closed(runtime: WorkflowRuntime, tapped: TappedStore) -> None:
    closed: list[str] = []

    async def endless() -> AsyncIterator[StartRun[int]]:
        try:
            while True:
                yield StartRun(1)
        finally:
            closed.append("source")

    async def stop(report: BulkReport) -> None:
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"):
        await runtime.start_runs(double, endless(), on_progress=stop)
    assert closed == ["source"]
    assert chunks(tapped, "create_runs") == [MAX_BULK_RUNS]


async def test_signals_are_answered_in_order(lab: Lab, runtime: WorkflowRuntime, tapped: TappedStore) -> None:
    runs = await runtime.start_runs(waiting, [StartRun(None, run_id=f"run-{number}") for number in range(3)])
    await runtime.sweep()
    seen: list[dict[str, int]] = []

    async def progress(report: BulkReport) -> None:
        seen.append(dict(report.outcomes))

    signals = [
        DeliverSignal("run-2", "go", "b"),
        DeliverSignal("nobody", "go"),
        DeliverSignal("run-0", "go", "a", signal_id="once"),
        DeliverSignal("run-2", "go", "c"),
        DeliverSignal("run-0", "go", "again", signal_id="once"),
    ]
    answers = await runtime.deliver_signals(signals, on_progress=progress)
    assert [answer.kind for answer in answers] == ["delivered", "not-found", "delivered", "buffered", "duplicate"]
    assert seen == [{"delivered": 2, "not-found": 1, "buffered": 1, "duplicate": 1}]
    with pytest.raises(LookupError, match="nobody"):
        answers[1].raise_for_outcome()
    assert chunks(tapped, "deliver_signals") == [5]
    await runtime.sweep()
    assert await runs[2].result(timeout=timedelta(seconds=5)) == ["b", "c"]
    assert await runtime.deliver_signals([]) == []
    many = await runtime.deliver_signals(DeliverSignal("run-0", "go", n) for n in range(MAX_BULK_RUNS + 1))
    assert [answer.kind for answer in many] == ["delivered"] + ["buffered"] * MAX_BULK_RUNS
    assert chunks(tapped, "deliver_signals") == [5, MAX_BULK_RUNS, 1]


async def test_bad_signal_is_refused(runtime: WorkflowRuntime) -> None:
    await runtime.start_run(waiting, None, run_id="run")
    for argument, signal in (
        ("signals.payload", DeliverSignal("run", "go", {1})),
        ("signals.name", DeliverSignal("run", "")),
        ("signals.signal_id", DeliverSignal("run", "go", signal_id="")),
        ("signals", "go"),
    ):
        with pytest.raises(InvalidArgumentError) as caught:
            await runtime.deliver_signals([DeliverSignal("run", "go"), signal])  # type: ignore[list-item]
        assert caught.value.argument == argument
    assert (await runtime.attach("run").load()).inbox_seq == 0


async def test_workers_here_are_woken(lab: Lab, runtime: WorkflowRuntime) -> None:
    """A worker of this process looks at once, and not at its next poll."""
    async with lab.working(runtime):
        runs = await runtime.start_runs(waiting, [StartRun(None, run_id=f"run-{number}") for number in range(3)])
        await runtime.deliver_signals(DeliverSignal(run.run_id, "go", n) for run in runs for n in range(2))
        for run in runs:
            assert await run.result(timeout=timedelta(seconds=10)) == [0, 1]
