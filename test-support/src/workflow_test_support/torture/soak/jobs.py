"""The work of a soak beside the errands of the chaos runs: the jobs of schedules, and orders that people approve."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from workflow_runtime import (
    Context,
    Cron,
    Every,
    RetryPolicy,
    Schedule,
    fixed_backoff,
    step_info,
    workflow,
)
from workflow_test_support.torture.errand import errand

__all__ = ["APPROVAL", "PAY", "SCHEDULES", "WORKFLOWS", "expected_order", "job", "order"]

APPROVAL = "manager"
PAY = "pay"

_SECOND = timedelta(seconds=1)
_FAILING = RetryPolicy(max_attempts=4, backoff=fixed_backoff(timedelta(milliseconds=200)), jitter=0.5)
_MOST_FAILURES = 3


class OutOfStockError(Exception):
    """Comes up a known number of times for each order."""


@workflow(id="job")
async def job(ctx: Context, work_ms: int) -> dict[str, Any]:
    """The workflow that a tick starts: a step, some time without a worker, a payment."""
    attempt = await ctx.step.options(id="prepare")(prepare)
    if work_ms:
        await ctx.sleep(timedelta(milliseconds=work_ms))
    receipt = await ctx.transaction(PAY, pay, ctx.run_id)
    return {"attempt": attempt, "receipt": receipt}


@workflow(id="order")
async def order(ctx: Context, number: int) -> dict[str, Any]:
    """A step that fails at first, an approval, a sleep, a payment if it was approved."""
    attempt = await ctx.step.options(id="reserve", retry=_FAILING)(reserve, number)
    approval = await ctx.approve(APPROVAL)
    await ctx.sleep(timedelta(milliseconds=300))
    receipt = await ctx.transaction(PAY, pay, ctx.run_id) if approval.approved else None
    return {"attempt": attempt, "approved_by": approval.decided_by, "receipt": receipt}


def expected_order(run_id: str, number: int, *, approved: bool, decided_by: str) -> dict[str, Any]:
    """Return what an order must give, whatever happens to those who drive it."""
    return {
        "attempt": 1 + number % (_MOST_FAILURES + 1),
        "approved_by": decided_by,
        "receipt": f"paid {run_id}" if approved else None,
    }


async def prepare() -> int:
    return step_info().attempt


async def reserve(number: int) -> int:
    attempt = step_info().attempt
    if attempt <= number % (_MOST_FAILURES + 1):
        raise OutOfStockError
    return attempt


async def pay(connection: Any, run_id: str) -> str:
    await connection.execute("INSERT INTO soak_payments (run_id) VALUES ($1)", run_id)
    return f"paid {run_id}"


WORKFLOWS = [errand, job, order]

SCHEDULES = [
    Schedule(id="allow", workflow=job, when=Every(_SECOND), input=0, overlap="allow"),
    Schedule(id="jitter", workflow=job, when=Every(_SECOND), input=0, overlap="allow", jitter=3 * _SECOND),
    Schedule(id="skip", workflow=job, when=Every(_SECOND), input=1_600, overlap="skip"),
    Schedule(id="buffer", workflow=job, when=Every(_SECOND), input=1_600, overlap="buffer-one"),
    Schedule(id="cancel", workflow=job, when=Every(_SECOND), input=2_500, overlap="cancel-previous"),
    Schedule(id="terminate", workflow=job, when=Every(_SECOND), input=2_500, overlap="terminate-previous"),
    Schedule(id="zoned", workflow=job, when=Cron("* * * * *", "Australia/Lord_Howe"), input=0, overlap="allow"),
]
"""Each overlap policy every second, jitter, and a cron expression in a zone."""
