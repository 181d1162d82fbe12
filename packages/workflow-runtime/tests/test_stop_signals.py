"""Signals belong to the program: a worker borrows what nobody uses, and gives back what it found."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from workflow_runtime import Context, workflow
from workflow_runtime.stop_signals import hear_stop_signals

if TYPE_CHECKING:
    from conftest import Lab

BOTH = (signal.SIGTERM, signal.SIGINT)


@workflow()
async def quick(ctx: Context, _: Any) -> str:
    return "done"


def present() -> list[Any]:
    return [signal.getsignal(number) for number in BOTH]


@pytest.fixture(autouse=True)
def _as_found() -> Iterator[None]:
    """Whatever a test leaves behind must not reach the next one."""
    before = present()
    try:
        yield
        assert present() == before, "the test, or what it tests, left a handler behind"
    finally:
        for number, handler in zip(BOTH, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def handlers(handler: Any) -> Iterator[list[signal.Signals]]:
    """Let the program have a handler of its own for both."""
    came: list[signal.Signals] = []
    wanted = (lambda number, frame: came.append(signal.Signals(number))) if handler == "callable" else handler
    before = [signal.signal(number, wanted) for number in BOTH]
    try:
        yield came
    finally:
        for number, found in zip(BOTH, before, strict=True):
            signal.signal(number, found)


async def ended(tasks: list[asyncio.Task[Any]]) -> None:
    async with asyncio.timeout(5):
        await asyncio.gather(*tasks)


@pytest.mark.parametrize("number", BOTH)
async def test_signal_is_the_workers_where_nobody_uses_it(lab: Lab, number: signal.Signals) -> None:
    before = present()
    working = asyncio.create_task(lab.runtime(quick).work())
    await lab.until(lambda: present() != before)
    signal.raise_signal(number)
    await ended([working])
    assert present() == before


@pytest.mark.parametrize("number", BOTH)
async def test_handler_of_the_program_stays(lab: Lab, number: signal.Signals, caplog: pytest.LogCaptureFixture) -> None:
    """It hears the signal, the worker does not, and says so when it begins."""
    caplog.set_level(logging.INFO, "workflow_runtime")
    stop = asyncio.Event()
    runtime = lab.runtime(quick)
    with handlers("callable") as came:
        mine = present()
        working = asyncio.create_task(runtime.work(stop=stop))
        handle = await runtime.start_run(quick)
        assert await handle.result() == "done"
        assert present() == mine
        signal.raise_signal(number)
        await asyncio.sleep(0.01)
        assert (came, stop.is_set(), working.done()) == ([number], False, False)
        stop.set()
        await ended([working])
        assert present() == mine
    assert f"{number.name} has a handler of the program's own" in caplog.text


async def test_ignored_signal_stays_ignored(lab: Lab) -> None:
    """As in a shell's background job."""
    stop = asyncio.Event()
    with handlers(signal.SIG_IGN):
        working = asyncio.create_task(lab.runtime(quick).work(stop=stop))
        await asyncio.sleep(0.01)
        for number in BOTH:
            signal.raise_signal(number)
        await asyncio.sleep(0.01)
        assert not working.done()
        stop.set()
        await ended([working])
        assert present() == [signal.SIG_IGN, signal.SIG_IGN]


async def test_handler_of_the_event_loop_stays(lab: Lab) -> None:
    """`loop.add_signal_handler` leaves next to nothing for others to see."""
    loop, stop = asyncio.get_running_loop(), asyncio.Event()
    came: list[signal.Signals] = []
    before = present()
    for number in BOTH:
        loop.add_signal_handler(number, came.append, number)
    try:
        working = asyncio.create_task(lab.runtime(quick).work(stop=stop))
        await asyncio.sleep(0.01)
        for number in BOTH:
            signal.raise_signal(number)
        await lab.until(lambda: len(came) == 2)
        assert not working.done()
        stop.set()
        await ended([working])
        for number in BOTH:
            signal.raise_signal(number)
        await lab.until(lambda: len(came) == 4)
    finally:
        for number, found in zip(BOTH, before, strict=True):
            loop.remove_signal_handler(number)
            signal.signal(number, found)


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
async def test_workers_that_end_in_any_order_give_back_what_the_first_one_found(
    lab: Lab, order: tuple[int, ...]
) -> None:
    before = present()
    stops = [asyncio.Event() for _ in range(3)]
    working = [asyncio.create_task(lab.runtime(quick).work(stop=stop)) for stop in stops]
    await lab.until(lambda: present() != before)
    ours = present()
    for index in order:
        assert present() == ours
        stops[index].set()
        await ended([working[index]])
    assert present() == before


@pytest.mark.parametrize("number", BOTH)
async def test_all_workers_of_a_process_hear_one_signal(lab: Lab, number: signal.Signals) -> None:
    before = present()
    working = [asyncio.create_task(lab.runtime(quick).work()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert present() != before
    signal.raise_signal(number)
    await ended(working)


async def test_handler_put_on_top_later_is_left_alone(lab: Lab) -> None:
    """It is the program's, and puts ours back when the worker is gone: then the signal does what it did before."""
    before = present()
    stop, came = asyncio.Event(), []
    working = asyncio.create_task(lab.runtime(quick).work(stop=stop))
    await lab.until(lambda: present() != before)

    def on_top(number: int, frame: Any) -> None:
        came.append(number)

    below = [signal.signal(number, on_top) for number in BOTH]
    stop.set()
    await ended([working])
    assert present() == [on_top, on_top]
    for number, handler in zip(BOTH, below, strict=True):
        signal.signal(number, handler)  # as uvicorn does when it has ended
    # Another worker may come and go meanwhile.
    again = asyncio.create_task(lab.runtime(quick).work())
    await asyncio.sleep(0.01)
    signal.raise_signal(signal.SIGTERM)
    await ended([again])
    assert came == []
    assert present() == before


@pytest.mark.parametrize("leave", ["cancelled", "failed"])
async def test_given_back_however_it_ends(lab: Lab, leave: str) -> None:
    before = present()

    async def fail(verb: str, arguments: dict[str, Any]) -> None:
        if leave == "failed" and verb.startswith("claim"):
            raise ZeroDivisionError

    store = lab.tapped()
    store.before = fail
    working = asyncio.create_task(lab.runtime(quick, store=store).work())
    await asyncio.sleep(0.01)
    working.cancel()
    with contextlib.suppress(ZeroDivisionError, asyncio.CancelledError):
        await working
    assert present() == before


async def test_thread_borrows_nothing(lab: Lab) -> None:
    before, seen = present(), []

    async def listen() -> None:
        with hear_stop_signals(lambda: None):
            seen.append(present())

    await asyncio.to_thread(asyncio.run, listen())
    assert seen == [before]


def test_handler_of_asyncio_run_is_given_back(lab: Lab) -> None:
    """`asyncio.run` takes back only what it has put there itself."""
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    seen: list[Any] = []

    async def main() -> None:
        found = signal.getsignal(signal.SIGINT)
        working = asyncio.create_task(lab.runtime(quick).work())
        await lab.until(lambda: signal.getsignal(signal.SIGINT) is not found)
        signal.raise_signal(signal.SIGINT)
        await working
        seen.append(signal.getsignal(signal.SIGINT) is found)

    asyncio.run(main())
    assert seen == [True]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_worker_that_outlives_main_leaves_no_handler_of_asyncio_run(lab: Lab) -> None:
    async def main() -> None:
        _left_behind.append(asyncio.create_task(lab.runtime(quick).work()))
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


_left_behind: list[Any] = []


# What ends a process is tried on a process.

_PROCESS = """
import asyncio, signal, sys, time
from workflow_runtime.stop_signals import hear_stop_signals

async def main():
    heard = []
    def received():
        heard.append(1)
        print("heard", len(heard), flush=True)
    with hear_stop_signals(received):
        print("ready", flush=True)
        if sys.argv[1] == "blocked":
            time.sleep(60)
        await asyncio.sleep(60)

asyncio.run(main())
"""


@contextlib.contextmanager
def process(state: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", _PROCESS, state]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            assert line_of(child) == "ready"
            yield child
        finally:
            child.kill()


def line_of(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


@pytest.mark.real_time
@pytest.mark.parametrize("number", BOTH)
def test_third_signal_does_what_it_did_before(number: signal.Signals) -> None:
    with process("idle") as child:
        for count in (1, 2):
            child.send_signal(number)
            assert line_of(child) == f"heard {count}"
        child.send_signal(number)
        assert child.wait(20) in (1, -number)


@pytest.mark.real_time
@pytest.mark.parametrize("number", BOTH)
def test_insistence_ends_a_process_whose_event_loop_is_blocked(number: signal.Signals) -> None:
    """It can hear of nothing, but Python's own handlers work."""
    with process("blocked") as child:
        deadline = time.monotonic() + 20
        while child.poll() is None and time.monotonic() < deadline:
            child.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(0.1)  # two signals of one number at once would be one
        assert child.returncode in (1, -number)
