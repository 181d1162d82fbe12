"""The cost of keeping leases, next to nothing for short runs, and how the keeping fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from workflow_runtime.clock import Clock, StoreClock
from workflow_runtime.engine.held_lease import NEVER_MS, HeldLease, due_leases
from workflow_runtime.engine.lease_keeper import LeaseKeeper
from workflow_runtime.errors import StoreUnavailableError
from workflow_runtime.heartbeats import HeartbeatThread
from workflow_runtime.store import (
    MAX_HEARTBEAT_LEASES,
    ClaimedRun,
    LeaseBusy,
    LeaseLost,
    LeaseRenewal,
    LeaseRenewer,
    LeaseResult,
)

PATIENCE_S = 30.0
LEASE_MS = 300


def held(number: int = 0, *, clock: Clock | None = None, lease_ms: int = LEASE_MS) -> HeldLease:
    claim = SimpleNamespace(run=SimpleNamespace(run_id=f"run {number}", inbox_seq=0), lease=SimpleNamespace(token="t"))
    return HeldLease(
        claim=cast("ClaimedRun", claim), clock=clock or StoreClock(0), lease_ms=lease_ms, on_news=lambda: None
    )


class Renewer:
    """A store that renews, and counts."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.opened = 0
        self.closed = 0
        self.error: Exception | None = None
        self.answers: dict[str, LeaseResult] = {}
        """Those that are no renewals, by run."""

    @property
    def renewed(self) -> list[str]:
        return [run_id for call in self.calls for run_id in call]

    async def heartbeat_run_leases(
        self, *, leases: Sequence[tuple[str, str]], lease_ms: int, now_ms: int
    ) -> tuple[LeaseResult, ...]:
        self.calls.append([run_id for run_id, _ in leases])
        if self.error is not None:
            raise self.error
        renewal = LeaseRenewal(
            lease_expires_at_ms=now_ms + lease_ms, inbox_seq=0, cancel_requested=False, store_clock_ms=now_ms
        )
        return tuple(self.answers.get(run_id, renewal) for run_id, _ in leases)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Any]:
        self.opened += 1
        yield self
        self.closed += 1


def keeping(
    renewer: Renewer | None = None,
    *,
    by_thread: Renewer | None = None,
    lease_ms: int = LEASE_MS,
    max_block_s: float = 60,
) -> LeaseKeeper:
    clock = StoreClock(0)
    thread = None
    if by_thread is not None:
        thread = HeartbeatThread(by_thread.open, clock=clock, lease_ms=lease_ms, max_block_s=max_block_s)
    return LeaseKeeper(
        renewer=cast("LeaseRenewer", renewer or Renewer()), clock=clock, lease_ms=lease_ms, thread=thread
    )


def thread_of(keeper: LeaseKeeper) -> HeartbeatThread:
    assert keeper._thread is not None
    return keeper._thread


def look_now(keeper: LeaseKeeper) -> None:
    """Have whoever renews look at the leases, though it is not time."""
    if keeper._thread is None:
        keeper._look()
        return
    with keeper._thread._changed:
        keeper._thread._next_look_at = 0.0
        keeper._thread._changed.notify()


def count(monkeypatch: pytest.MonkeyPatch, owner: Any, method: str) -> list[str]:
    """Have each call of a method leave its name."""
    calls: list[str] = []
    right = getattr(owner, method)

    def counted(*args: Any, **options: Any) -> Any:
        calls.append(method)
        return right(*args, **options)

    monkeypatch.setattr(owner, method, counted)
    return calls


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.002)


# Which leases are renewed, and when.


def test_no_lease_is_renewed_before_one_is_due_and_then_those_too_that_are_due_soon() -> None:
    leases = [held(number) for number in range(5)]

    def due(now_ms: int) -> tuple[list[int], int]:
        chosen, next_ms = due_leases(leases, [120, 100, 111, 110, 150], now_ms, early_ms=10)
        return [leases.index(lease) for lease in chosen], next_ms

    assert due(99) == ([], 100)
    assert due(100) == ([1, 3], 111)
    assert due(145) == ([1, 3, 2, 0, 4], NEVER_MS), "the longest due first"
    assert due_leases([], [], 100, early_ms=10) == ([], NEVER_MS)


# Short runs.


async def test_short_run_takes_no_task_and_no_thread_and_wakes_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that is there stays for the next run, and looks when its time has come, not when a run begins."""
    started = count(monkeypatch, threading.Thread, "start")
    looks = count(monkeypatch, HeartbeatThread, "_look")
    connection = Renewer()
    keeper = keeping(by_thread=connection, lease_ms=600_000)
    for number in range(200):
        async with keeper.keep(held(number, lease_ms=600_000)):
            await asyncio.sleep(0)
            assert asyncio.all_tasks() == {asyncio.current_task()}
    assert len(started) == 1
    assert len(looks) <= 1
    await thread_of(keeper).ended()
    assert thread_of(keeper)._thread is None
    assert connection.opened == 0


async def test_leases_of_one_event_loop_share_a_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    timers = count(monkeypatch, asyncio.get_running_loop(), "call_later")
    keeper = keeping(by_thread=Renewer(), lease_ms=600_000)
    async with AsyncExitStack() as stack:
        for number in range(1_000):
            await stack.enter_async_context(keeper.keep(held(number, lease_ms=600_000)))
        assert len(timers) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}


@pytest.mark.real_time
async def test_thread_without_a_connection_leaves_when_no_lease_came_between_two_looks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A look that falls between two runs is not the end of it."""
    looks = count(monkeypatch, HeartbeatThread, "_look")
    keeper = keeping(by_thread=Renewer(), lease_ms=600_000)
    beats = thread_of(keeper)

    async with keeper.keep(held(lease_ms=600_000)):
        await until(lambda: len(looks) == 1)
    look_now(keeper)
    await until(lambda: len(looks) == 2)
    async with keeper.keep(held(lease_ms=600_000)):
        pass
    look_now(keeper)
    await until(lambda: len(looks) == 3)
    assert beats._thread is not None
    look_now(keeper)
    await until(lambda: beats._thread is None)


# Long runs.


MANY = MAX_HEARTBEAT_LEASES + 1


@pytest.mark.real_time
@pytest.mark.parametrize("by_thread", [False, True])
async def test_many_leases_take_few_calls_and_runs_that_have_ended_meanwhile_none(by_thread: bool) -> None:
    """They are due together, and the last one ends before its turn comes."""
    store = Renewer()
    keeper = keeping(by_thread=store, lease_ms=600_000) if by_thread else keeping(store, lease_ms=600_000)
    going_on = threading.Event()
    renew = store.heartbeat_run_leases

    async def wait(**asked: Any) -> Any:
        answer = await renew(**asked)
        await asyncio.to_thread(going_on.wait)
        return answer

    store.heartbeat_run_leases = wait  # type: ignore[method-assign]
    leases = [held(number, lease_ms=600_000) for number in range(MANY + 1)]
    async with AsyncExitStack() as kept:
        for lease in leases[:-1]:
            await kept.enter_async_context(keeper.keep(lease))
        async with keeper.keep(leases[-1]):
            for lease in leases:
                lease.renew_at_ms = 0
            look_now(keeper)
            await until(lambda: store.calls)
        going_on.set()
        await until(lambda: all(lease.renew_at_ms > 0 for lease in leases[:-1]))
        await until(lambda: len(store.calls) == 2)
    assert [len(call) for call in store.calls] == [MAX_HEARTBEAT_LEASES, 1]


@pytest.mark.real_time
@pytest.mark.parametrize("by_thread", [False, True])
async def test_heartbeat_that_fails_hurries_no_other(by_thread: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Renewer()
    store.error = StoreUnavailableError("away")
    keeper = keeping(by_thread=store, lease_ms=600_000) if by_thread else keeping(store, lease_ms=600_000)
    looks = count(monkeypatch, HeartbeatThread if by_thread else LeaseKeeper, "_look")
    lease = held(lease_ms=600_000)
    lease.renew_at_ms = 0
    async with keeper.keep(lease):
        for number in range(1, 4):
            look_now(keeper)
            await until(lambda: len(looks) >= number and store.calls)  # noqa: B023  # awaited at once
            await asyncio.sleep(0.01)
    assert len(store.calls) == 1


@pytest.mark.real_time
@pytest.mark.parametrize("by_thread", [False, True])
async def test_each_lease_hears_what_became_of_it(by_thread: bool) -> None:
    """One that is lost is lost alone; one that is busy is asked for again, sooner than the others."""
    store = Renewer()
    store.answers = {"run 1": LeaseLost(), "run 2": LeaseBusy()}
    keeper = keeping(by_thread=store) if by_thread else keeping(store)
    leases = [held(number) for number in range(3)]
    async with AsyncExitStack() as kept:
        for lease in leases:
            await kept.enter_async_context(keeper.keep(lease))
        await until(lambda: store.renewed.count("run 2") >= 2)
        assert store.renewed.count("run 0") == 1
        store.answers.pop("run 2")
        await until(lambda: store.renewed.count("run 0") >= 3)
    assert [lease.lost for lease in leases] == [False, True, False]
    assert store.renewed.count("run 1") == 1


@pytest.mark.real_time
async def test_leases_whose_turn_did_not_come_are_the_first_next_time() -> None:
    """A call that fails again and again keeps those behind it from nothing."""
    store = Renewer()
    store.error = StoreUnavailableError("away")
    keeper = keeping(by_thread=store, lease_ms=1_200)
    leases = [held(number, lease_ms=1_200) for number in range(MANY)]
    for lease in leases:
        lease.renew_at_ms = 0
    async with AsyncExitStack() as kept:
        for lease in leases[1:]:
            await kept.enter_async_context(keeper.keep(lease))
        await kept.enter_async_context(keeper.keep(leases[0]))
        await until(lambda: "run 0" in store.renewed)
        assert len(store.calls) <= 3


@pytest.mark.real_time
async def test_connection_is_closed_with_the_last_lease() -> None:
    """At once: whoever waited for the run may take the database away."""
    connection = Renewer()
    keeper = keeping(by_thread=connection, lease_ms=600_000)
    lease = held(lease_ms=600_000)
    lease.renew_at_ms = 0
    async with keeper.keep(lease):
        async with keeper.keep(held(1, lease_ms=600_000)):
            await until(lambda: connection.opened)
        await asyncio.sleep(0.01)
        assert not connection.closed
    await until(lambda: connection.closed == 1)
    await until(lambda: thread_of(keeper)._thread is None)


@pytest.mark.real_time
async def test_lost_lease_is_asked_for_no_more_though_its_event_loop_does_not_hear_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    connection = Renewer()
    connection.answers = {"run 1": LeaseLost()}
    keeper = keeping(by_thread=connection)
    monkeypatch.setattr(keeper, "hear", lambda answers: None)
    async with keeper.keep(held(1)), keeper.keep(held(2)):
        await until(lambda: connection.renewed.count("run 2") >= 4)
        assert connection.renewed.count("run 1") == 1


@pytest.mark.real_time
def test_event_loop_that_is_closed_has_no_leases() -> None:
    """Its drives never said that they ended."""
    connection = Renewer()
    left_open = []

    async def keep() -> LeaseKeeper:
        keeper = keeping(by_thread=connection)
        left_open.append(keeper.keep(held()))
        await left_open[0].__aenter__()
        await until(lambda: connection.renewed)
        return keeper

    loop = asyncio.new_event_loop()
    keeper = loop.run_until_complete(keep())
    loop.close()
    thread = thread_of(keeper)._thread
    assert thread is not None
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    assert connection.closed == 1


FORKS = """
import asyncio, os, sys, threading
sys.path.insert(0, {here!r})
from test_lease_keeper import Renewer, held, keeping, thread_of, until

async def keep(keeper, *, begun):
    async with keeper.keep(held(lease_ms=600)):
        await until(begun)

async def child(thread):
    keeper = keeping(by_thread=Renewer(), lease_ms=600)
    keeper._thread = thread
    async with keeper.keep(held(7, lease_ms=600)):
        assert list(thread._loops) == [keeper], "the parent's leases are the parent's"
        await until(lambda: "run 7" in connection.renewed)

connection = Renewer()
parent = None

async def main():
    global parent
    parent = keeping(by_thread=connection, lease_ms=600)
    keeping_on = parent.keep(held(lease_ms=600))
    await keeping_on.__aenter__()
    await until(lambda: connection.renewed)
    thread_of(parent)._changed.acquire()
    pid = os.fork()
    if not pid:
        asyncio._set_running_loop(None)
        asyncio.run(child(thread_of(parent)))
        os._exit(0)
    thread_of(parent)._changed.release()
    _, status = os.waitpid(pid, 0)
    sys.stdout.write(str(os.waitstatus_to_exitcode(status)))
    sys.stdout.flush()
    os._exit(0)

asyncio.run(main())
"""


@pytest.mark.real_time
def test_forked_child_has_a_thread_of_its_own_and_none_of_the_parents_leases() -> None:
    """Whatever the parent's thread was about to do at that moment, such as hold the lock."""
    program = [sys.executable, "-W", "ignore", "-c", FORKS.format(here=str(Path(__file__).parent))]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "0", done.stderr


# What cannot be had.


@pytest.mark.real_time
async def test_heartbeat_thread_bears_that_nothing_can_be_opened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No file handles for an event loop, then no threads: the leases of later runs are kept again."""
    opened = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Renewer:
        async def heartbeat_run_leases(self, **_: object) -> None:
            loop.call_soon_threadsafe(opened.set)
            raise RuntimeError("no more than that is needed")

    @asynccontextmanager
    async def open_renewer() -> Any:
        yield Renewer()

    clock = StoreClock(0)
    thread = HeartbeatThread(open_renewer, clock=clock, lease_ms=60, max_block_s=60)
    keeper = LeaseKeeper(renewer=cast("LeaseRenewer", None), clock=clock, lease_ms=60, thread=thread)
    runner, failures = asyncio.Runner, iter([OSError(24, "Too many open files")])

    def no_files() -> asyncio.Runner:
        for failure in failures:
            raise failure
        return runner()

    monkeypatch.setattr(asyncio, "Runner", no_files)
    starting = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", _cannot_start)
    async with keeper.keep(held(lease_ms=60)):
        pass
    assert "no thread for heartbeats" in caplog.text
    async with keeper.keep(held(lease_ms=60)), asyncio.timeout(10):
        monkeypatch.setattr(threading.Thread, "start", starting)
        await opened.wait()
    await thread.ended()
    assert "Too many open files" in caplog.text


def _cannot_start(thread: threading.Thread) -> None:
    raise RuntimeError("can't start new thread")
