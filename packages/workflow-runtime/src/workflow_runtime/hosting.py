"""For hosts that are woken up now and then: serverless cron, scheduled functions, a cron command."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import timedelta
from typing import Any, TypeAlias

from .clock import from_ms
from .errors import ConfigurationError
from .metering import meter_queries
from .runtime import WorkflowRuntime
from .sweep import SweepReport

__all__ = ["RuntimeSource", "open_runtime", "sweep_handler", "sweep_summary"]

RuntimeSource: TypeAlias = WorkflowRuntime | Callable[[], AbstractAsyncContextManager[WorkflowRuntime]]
"""A runtime, or a function that opens one and its store (`@asynccontextmanager`)."""


def sweep_handler(
    runtime: RuntimeSource,
    budget: timedelta,
    *,
    limit: int = 100,
    concurrency: int = 10,
    max_queries: int | None = None,
) -> Callable[..., Coroutine[Any, Any, dict[str, Any]]]:
    """Make the function that a host calls each time its cron fires.

    Args:
        runtime: What sweeps. Give a function where each call gets an event loop of its own, as under `asyncio.run`:
            connections cannot move from one loop to another.
        budget: How long one call may take in real time; choose less than what the host allows. Steps that run
            then are waited for, so no step should take longer than the rest.
        limit: Claim at most so many runs in one call.
        concurrency: Drive at most so many at once.
        max_queries: Send at most so many queries in one call, on a store that can count them. What `runtime` sends
            while it opens counts too.

    Returns:
        An async function that takes whatever the host passes (and ignores it), sweeps once, and gives a summary that
        JSON can carry, as `sweep_summary` writes it.
    """

    async def handle(*event: object, **context: object) -> dict[str, Any]:
        with meter_queries(max_queries):
            async with open_runtime(runtime) as opened:
                report = await opened.sweep(
                    limit=limit, deadline=budget, concurrency=concurrency, max_queries=max_queries
                )
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


def sweep_summary(report: SweepReport) -> dict[str, Any]:
    """Write a report as plain data, for a log line or a host's answer."""
    return {
        "claimed": dict(report.claimed),
        "outcomes": dict(report.outcomes),
        "ticks": dict(report.ticks),
        "failures": {failure.run_id: str(failure.error) for failure in report.failures},
        "tick_failures": {failure.schedule_id: str(failure.error) for failure in report.tick_failures},
        "unclaimable": sorted(report.unclaimable),
        "corrupt": [str(error) for error in report.corrupt],
        "dead": list(report.dead),
        "queries": report.queries,
        "rows_read": report.rows_read,
        "rows_written": report.rows_written,
        "next_due": None if report.next_due_ms is None else from_ms(report.next_due_ms).isoformat(),
    }


def render_summary(summary: dict[str, Any]) -> str:
    """Write a summary as one line of JSON."""
    return json.dumps(summary, ensure_ascii=False)
