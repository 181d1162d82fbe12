"""The shop: what happens to an order, and the report of each day. It knows nothing of Cloudflare."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, TypedDict
from zoneinfo import ZoneInfo

from workflow_runtime import Context, Cron, Schedule, WaitTimeoutError, Workflow, workflow
from workflow_store_d1 import D1Transaction

ASK_FROM = 1_000
"""Orders of this amount or more need a person's approval."""

COOLING_OFF = timedelta(hours=1)
"""Customers may change their minds for so long."""

ZONE = "Europe/Warsaw"


class Order(TypedDict):
    """What an order is started with."""

    order_id: int
    amount: int


@workflow(id="order")
async def order(ctx: Context, order: Order) -> str:
    """Wait for the payment, ask a person if it is much, sleep over it, ship. It may take a week; nothing runs then."""
    number = order["order_id"]
    await ctx.transaction("accept", accept, number, order["amount"])
    try:
        await ctx.wait_for_event("paid", timeout=timedelta(days=7))
    except WaitTimeoutError:
        return await ctx.transaction("give-up", set_status, number, "unpaid")
    if order["amount"] >= ASK_FROM:
        decision = await ctx.approve("ship")
        if not decision.approved:
            return await ctx.transaction("refuse", set_status, number, "refused")
    await ctx.sleep(COOLING_OFF)
    return await ctx.transaction("ship", set_status, number, "shipped")


@workflow(id="daily-report")
async def daily_report(ctx: Context, _: None) -> str:
    """Count what has been shipped so far."""
    today = (await ctx.now()).astimezone(ZoneInfo(ZONE)).date().isoformat()
    return await ctx.transaction("count", count_shipped, today)


# Each of these is committed in one batch with the record that it was done: once, whatever crashes.


async def accept(tx: D1Transaction, number: int, amount: int) -> None:
    """Write the order down."""
    tx.add("INSERT INTO orders (order_id, amount, status) VALUES (?1, ?2, 'accepted')", number, amount)


async def set_status(tx: D1Transaction, number: int, status: str) -> str:
    """Say where the order stands."""
    tx.add("UPDATE orders SET status = ?2 WHERE order_id = ?1", number, status)
    return status


async def count_shipped(tx: D1Transaction, day: str) -> str:
    """Write the report of a day, or bring it up to date."""
    tx.add(
        "INSERT INTO daily_reports (day, shipped) SELECT ?1, count(*) FROM orders WHERE status = 'shipped' "
        "ON CONFLICT (day) DO UPDATE SET shipped = excluded.shipped",
        day,
    )
    return day


WORKFLOWS: list[Workflow[Any, Any]] = [order, daily_report]
SCHEDULES = [Schedule(id="daily-report", workflow=daily_report, when=Cron("0 6 * * *", ZONE))]
