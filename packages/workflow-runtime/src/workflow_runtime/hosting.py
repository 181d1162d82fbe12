"""Sweeps under hosts that call now and then: serverless cron, scheduled functions, a cron command."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any, TypeAlias

from .clock import from_ms
from .durations import check_duration
from .errors import ConfigurationError
from .logs import one_line
from .metering import meter_queries
from .runtime import DRAIN_TIMEOUT, WorkflowRuntime
from .sweep import SweepReport

__all__ = ["RuntimeSource", "open_runtime", "sweep_handler", "sweep_problems", "sweep_summary", "time_left"]

RuntimeSource: TypeAlias = WorkflowRuntime | Callable[[], AbstractAsyncContextManager[WorkflowRuntime]]
"""A runtime, or a function that opens one and its store (`@asynccontextmanager`)."""


_KEPT_BACK = timedelta(seconds=10)
"""The most time that is kept back for handing runs over; a fifth of what the host leaves where that is less."""
_SHARE_KEPT_BACK = 0.2
_SHARE_OF_DRAIN = 0.8
"""Share of the time kept back that the drain gets. The rest is for closing the store."""

_ASKED = ("get_remaining_time_in_millis", "getRemainingTimeInMilliSeconds")
"""Methods that return the time left: of AWS Lambda's context and those made after it (Yandex, OpenWhisk); of Huawei's
FunctionGraph.
"""


def time_left(*event: object, **context: object) -> timedelta | None:
    """Return how long a call of a function may still take, from what its host has passed; `None` if nothing says so."""
    for argument in (*event, *context.values()):
        for name in _ASKED:
            ask = getattr(argument, name, None)
            left_ms = ask() if callable(ask) else None
            if isinstance(left_ms, (int, float)):
                return timedelta(milliseconds=left_ms)
    return None


def sweep_handler(
    runtime: RuntimeSource,
    budget: timedelta,
    *,
    limit: int = 100,
    concurrency: int = 10,
    max_queries: int | None = None,
    time_left: Callable[..., timedelta | None] = time_left,
) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    """Make the function that a host calls each time its cron fires.

    A call keeps to the time that its host has left for it, where the host says how much: in the last fifth of it
    (10 seconds at most) the runs are handed over, and steps that still run are cancelled. SIGTERM and SIGINT work as in
    `WorkflowRuntime.work`, and say that the deadline is now.

    Args:
        runtime: What sweeps. Give a function where each call gets an event loop of its own, as under `asyncio.run`:
            connections cannot move from one loop to another.
        budget: Claim nothing more after this real time. Steps that run then are waited for, so where the host does not
            tell how much time it leaves, choose less by as much as your longest step takes.
        limit: Claim at most so many runs in one call.
        concurrency: Drive at most so many at once.
        max_queries: Send at most so many queries in one call, on a store that can count them. What `runtime` sends
            while it opens counts too.
        time_left: Tells from what the host passes how long this call may still take; `None` when it cannot tell. The
            default knows the contexts of AWS Lambda and of those who do alike.

    Returns:
        An async function that takes whatever the host passes (and ignores it), sweeps once, and gives a summary that
        JSON can carry, as `sweep_summary` writes it.
    """
    check_duration("budget", budget)

    async def handle(*event: object, **context: object) -> dict[str, Any]:
        left = time_left(*event, **context)
        stop, drain_timeout, timer = asyncio.Event(), DRAIN_TIMEOUT, None
        if left is not None:
            kept_back = min(_KEPT_BACK, left * _SHARE_KEPT_BACK)
            drain_timeout = kept_back * _SHARE_OF_DRAIN
            loop = asyncio.get_running_loop()
            timer = loop.call_later((left - kept_back).total_seconds(), stop.set)
        try:
            with meter_queries(max_queries):
                async with open_runtime(runtime) as opened:
                    report = await opened.sweep(
                        limit=limit,
                        deadline=budget,
                        concurrency=concurrency,
                        max_queries=max_queries,
                        stop=stop,
                        drain_timeout=drain_timeout,
                        handle_signals=True,
                    )
        finally:
            if timer is not None:
                timer.cancel()
        return sweep_summary(report)

    return handle


@asynccontextmanager
async def open_runtime(source: RuntimeSource) -> AsyncIterator[WorkflowRuntime]:
    """Open what may be a runtime or a function that opens one.

    Raises:
        ConfigurationError: It is neither.
    """
    if isinstance(source, WorkflowRuntime):
        yield source
        return
    opening: Any = source() if callable(source) else None  # type: ignore[redundant-expr]  # callers without a type checker
    if not hasattr(opening, "__aenter__"):
        raise ConfigurationError(
            f"{source!r} is neither a WorkflowRuntime nor a function with @asynccontextmanager that yields one"
        )
    async with opening as runtime:
        if not isinstance(runtime, WorkflowRuntime):
            raise ConfigurationError(f"{source!r} gives {type(runtime).__name__}, not a WorkflowRuntime")
        yield runtime


def sweep_problems(report: SweepReport) -> list[str]:
    """Name what an operator has to look at; each of it is in the log too.

    What a handler has decided (a run that errored, one that was cancelled) and what went to another worker is none of
    it.
    """
    found = [
        ("runs could not be driven", [repr(failure.run_id) for failure in report.failures]),
        ("runs are parked as dead", [repr(run_id) for run_id in report.dead]),
        ("records could not be read", [str(error) for error in report.corrupt]),
        ("ticks could not be settled, of schedules", [repr(failure.schedule_id) for failure in report.tick_failures]),
        ("ticks were missed, of schedules", _quoted(report.missed)),
        ("schedules have a tick waiting and a workflow that is not known here", _quoted(report.unclaimable)),
        ("claims failed", [str(error) for error in report.claim_failures]),
    ]
    return [f"{what}: {_some(which)}" for what, which in found if which]


def _quoted(schedule_ids: Iterable[str]) -> list[str]:
    return [repr(schedule_id) for schedule_id in sorted(schedule_ids)]


def _some(named: list[str], most: int = 20) -> str:
    more = f" and {len(named) - most} more" if len(named) > most else ""
    return one_line(", ".join(named[:most]) + more)


def sweep_summary(report: SweepReport) -> dict[str, Any]:
    """Write a report as plain data, for a log line or a host's answer."""
    return {
        "claimed": dict(report.claimed),
        "outcomes": dict(report.outcomes),
        "ticks": dict(report.ticks),
        "failures": {failure.run_id: str(failure.error) for failure in report.failures},
        "tick_failures": {failure.schedule_id: str(failure.error) for failure in report.tick_failures},
        "unclaimable": sorted(report.unclaimable),
        "unserved": [asdict(runs) for runs in report.unserved],
        "corrupt": [str(error) for error in report.corrupt],
        "dead": list(report.dead),
        "missed": sorted(report.missed),
        "claim_failures": [str(error) for error in report.claim_failures],
        "problems": sweep_problems(report),
        "queries": report.queries,
        "rows_read": report.rows_read,
        "rows_written": report.rows_written,
        "next_due": None if report.next_due_ms is None else from_ms(report.next_due_ms).isoformat(),
    }


def render_summary(summary: dict[str, Any]) -> str:
    """Write a summary as one line of JSON."""
    return json.dumps(summary, ensure_ascii=False)
