"""The cost of keeping leases, next to nothing for short runs, and how the keeping fails."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from workflow_runtime.clock import Clock, StoreClock
from workflow_runtime.engine.held_lease import HeldLease, due_leases
from workflow_runtime.engine.lease_keeper import LeaseKeeper
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.heartbeats import HeartbeatThread
from workflow_runtime.store import ClaimedRun, LeaseRenewal, LeaseRenewer

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
        self.renewed: list[str] = []
        self.opened = 0
        self.closed = 0
        self.error: Exception | None = None

    async def heartbeat_run_lease(self, *, run_id: str, lease_token: str, lease_ms: int, now_ms: int) -> LeaseRenewal:
        self.renewed.append(run_id)
        if self.error is not None:
            raise self.error
        return LeaseRenewal(
            lease_expires_at_ms=now_ms + lease_ms, inbox_seq=0, cancel_requested=False, store_clock_ms=now_ms
        )

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
    due_at = dict(zip(leases, [120, 100, 111, 110, 150], strict=True))

    def due(now_ms: int) -> tuple[list[int], int | None]:
        chosen, next_ms = due_leases(leases, now_ms, early_ms=10, due_ms=due_at.__getitem__)
        return [leases.index(lease) for lease in chosen], next_ms

    assert due(99) == ([], 100)
    assert due(100) == ([1, 3], 111)
    assert due(145) == ([0, 1, 2, 3, 4], None)
    leases[1].lost = True
    assert due(100) == ([], 110)
    assert due_leases([], 100, early_ms=10, due_ms=due_at.__getitem__) == ([], None)


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

    def look_now() -> None:
        with beats._changed:
            beats._changed.notify()

    async with keeper.keep(held(lease_ms=600_000)):
        await until(lambda: len(looks) == 1)
    look_now()
    await until(lambda: len(looks) == 2)
    async with keeper.keep(held(lease_ms=600_000)):
        pass
    look_now()
    await until(lambda: len(looks) == 3)
    assert beats._thread is not None
    look_now()
    await until(lambda: beats._thread is None)


# Long runs.


@pytest.mark.real_time
async def test_runs_that_have_ended_meanwhile_are_not_renewed() -> None:
    """They were due together, and one ended before its turn came."""
    slow = Renewer()
    keeper = keeping(by_thread=slow)
    first, second = held(1), held(2)
    second.renew_at_ms = first.renew_at_ms
    going_on = threading.Event()
    renew = slow.heartbeat_run_lease

    async def wait(**asked: Any) -> LeaseRenewal:
        answer = await renew(**asked)
        await asyncio.to_thread(going_on.wait)
        return answer

    slow.heartbeat_run_lease = wait  # type: ignore[method-assign]
    async with keeper.keep(first):
        async with keeper.keep(second):
            await until(lambda: slow.renewed)
        going_on.set()
        await until(lambda: len(slow.renewed) >= 3)
    assert "run 2" not in slow.renewed[1:]


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
    connection.error = LeaseLostError("run 'run 1'")
    keeper = keeping(by_thread=connection)
    heard: list[Any] = []
    monkeypatch.setattr(keeper, "hear", heard.append)
    async with keeper.keep(held(1)):
        await until(lambda: heard)
        connection.error = None
        async with keeper.keep(held(2)):
            await until(lambda: len(heard) >= 4)
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
        async def heartbeat_run_lease(self, **_: object) -> None:
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
