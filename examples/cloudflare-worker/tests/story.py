"""Some days of the shop, told to the Worker's handlers; runs under Pyodide."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import entry
import js
from pyodide.ffi import to_js
from workers import Request
from workflow_runtime import QueryMeter, TestClock, WorkflowRuntime, meter_queries
from workflow_store_d1 import D1WorkflowStore

WRONG_ORDERS = [
    ("endless number", "Infinity", "1"),
    ("broken number", "7.5", "1"),
    ("number in words", "7", '"much"'),
    ("truth for a number", "true", "1"),
    ("number below zero", "-7", "1"),
    ("number beyond all orders", "1000000000000000", "1"),
    ("amount below zero", "7", "-1"),
]


class Teller:
    """Calls the handlers as Cloudflare does, with an object of their own for each call.

    Args:
        env: What the SDK hands to a Worker.
        emit: Takes what a call answered and cost.
    """

    def __init__(self, env: Any, emit: Callable[[object], None]) -> None:
        self._env = env
        self._emit = emit
        self.clock = TestClock(datetime(2030, 1, 1, 12, tzinfo=UTC))
        vars(entry)["WorkflowRuntime"] = partial(WorkflowRuntime, clock=self.clock)  # time is the test's

    async def get(self, phase: str, path: str) -> None:
        """Ask."""
        await self._fetch(phase, path, {"method": "GET"})

    async def post(self, phase: str, path: str, body: object, *, token: str = "secret") -> None:
        """Tell something."""
        text = body if isinstance(body, str) else json.dumps(body)
        await self._fetch(phase, path, {"method": "POST", "body": text}, token=token)

    async def cron(self, phase: str) -> None:
        """Let a minute's cron trigger fire."""
        printed = io.StringIO()
        with self._metered(phase) as said, contextlib.redirect_stdout(printed):
            await self._worker().scheduled(js.Object.new(), self._env, js.Object.new())
        said["answer"] = json.loads(printed.getvalue())
        self._emit(said)

    async def look(self, phase: str, *tables: str) -> None:
        """Read tables behind the Worker's back."""
        database = D1WorkflowStore(self._env.DB).database
        found = {table: await database.prepare(f"SELECT * FROM {table}").all() for table in tables}
        self._emit({"phase": phase, "answer": {table: result.results for table, result in found.items()}})

    async def _fetch(self, phase: str, path: str, options: dict[str, Any], *, token: str = "secret") -> None:
        whole = options | {"headers": {"Authorization": f"Bearer {token}"}}
        request = js.Request.new(f"https://shop.example{path}", to_js(whole, dict_converter=js.Object.fromEntries))
        with self._metered(phase) as said:
            response = await self._worker().fetch(Request(request))
        said |= {"status": response.status, "answer": json.loads(await response.text())}
        self._emit(said)

    def _worker(self) -> entry.Default:
        return entry.Default(js.Object.new(), self._env)

    @contextmanager
    def _metered(self, phase: str) -> Iterator[dict[str, Any]]:
        said: dict[str, Any] = {"phase": phase}
        with meter_queries() as meter:
            yield said
        said["cost"] = cost_of(meter)


def cost_of(meter: QueryMeter) -> dict[str, int]:
    """Write down what a call has cost."""
    return {
        "requests": meter.requests,
        "queries": meter.queries,
        "rows_read": meter.rows_read,
        "rows_written": meter.rows_written,
    }


async def tell_story(env: Any, emit: Callable[[object], None]) -> None:
    """An order from its start to its end, with everything said twice, and the report of the next morning."""
    await D1WorkflowStore(env.DB).check_schema()
    teller = Teller(env, emit)
    await say_wrong_things(teller)
    await place_and_pay(teller)
    await decide(teller)
    await wait_and_ship(teller)
    await teller.look("tables", "orders", "daily_reports")


async def say_wrong_things(teller: Teller) -> None:
    """What clients do."""
    await teller.post("wrong token", "/orders", {"order_id": 7, "amount": 2500}, token="guessed")
    await teller.post("wrong body", "/orders", {"order_id": 7})
    await teller.post("no body", "/orders", "")
    await teller.post("no json", "/orders", "{")
    for name, order_id, amount in WRONG_ORDERS:
        await teller.post(name, "/orders", f'{{"order_id": {order_id}, "amount": {amount}}}')
    await teller.post("wrong path", "/order", {})
    await teller.get("unknown order", "/orders/7")
    await teller.post("payment of an unknown order", "/orders/7/payment", {"payment_id": "p-1"})


async def place_and_pay(teller: Teller) -> None:
    """A start and a signal."""
    await teller.post("start", "/orders", {"order_id": 7, "amount": 2500})
    await teller.post("start again", "/orders", {"order_id": 7, "amount": 2500})
    await teller.post("start otherwise", "/orders", {"order_id": 7, "amount": 1})
    await teller.get("placed", "/orders/7")
    await teller.cron("accept")
    await teller.get("unpaid", "/orders/7")
    await teller.post("pay", "/orders/7/payment", {"payment_id": "p-1"})
    await teller.post("pay again", "/orders/7/payment", {"payment_id": "p-1"})
    await teller.cron("take payment")
    await teller.get("undecided", "/orders/7")


async def decide(teller: Teller) -> None:
    """An approval."""
    await teller.post("vague approval", "/orders/7/approval", {"approved": "false", "by": "ann"})
    await teller.post("nobody's approval", "/orders/7/approval", {"approved": True, "by": None})
    await teller.get("still undecided", "/orders/7")
    await teller.post("approve", "/orders/7/approval", {"approved": True, "by": "ann"})
    await teller.post("refuse", "/orders/7/approval", {"approved": False, "by": "bob"})
    await teller.cron("take approval")
    await teller.get("cooling off", "/orders/7")


async def wait_and_ship(teller: Teller) -> None:
    """A sleep and a schedule."""
    teller.clock.advance(timedelta(minutes=59))
    await teller.cron("too early")
    teller.clock.advance(timedelta(minutes=1))
    await teller.cron("ship")
    await teller.get("ended", "/orders/7")
    await teller.post("pay too late", "/orders/7/payment", {"payment_id": "p-2"})
    await teller.cron("idle")
    teller.clock.advance(timedelta(hours=16, seconds=30))  # six in the morning in Warsaw, and the cron's next minute
    await teller.cron("report")
    await teller.cron("report, the rest")  # one call may not do all of it
