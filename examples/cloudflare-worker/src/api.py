"""The shop over HTTP: a method, a path and a body in; a status and a body out.

POST /orders               {"order_id": 7, "amount": 250}     starts the run of an order
GET  /orders/7                                                says where it stands
POST /orders/7/payment     {"payment_id": "p-1"}              delivers a signal
POST /orders/7/approval    {"approved": true, "by": "ann"}    delivers an approval

All of them may be repeated: an order starts once, a payment counts once, the first decision holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Any, TypeAlias

import workflows
from workflow_runtime import RunConflictError, RunNotFoundError, StoreUnavailableError, WorkflowRuntime

__all__ = ["Answer", "handle"]

Answer: TypeAlias = tuple[HTTPStatus, dict[str, Any]]

LARGEST = 10**15 - 1
"""The largest number that a path can name; D1 keeps it exactly."""


async def handle(runtime: WorkflowRuntime, method: str, path: str, body: str) -> Answer:
    """Answer a request; whatever is wrong with it is an answer too."""
    try:
        for wanted_method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found is not None and method == wanted_method:
                return await answer(runtime, *map(int, found.groups()), *([json.loads(body)] if body else []))
    except RunNotFoundError:
        return refuse(HTTPStatus.NOT_FOUND, "there is no such order")
    except RunConflictError:
        return refuse(HTTPStatus.CONFLICT, "this order was placed before, with another amount")
    except StoreUnavailableError as error:
        return refuse(HTTPStatus.SERVICE_UNAVAILABLE, f"ask again: {error}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        return refuse(HTTPStatus.BAD_REQUEST, f"the body does not fit: {error!r}")
    return refuse(HTTPStatus.NOT_FOUND, f"{method} {path} means nothing here")


def refuse(status: HTTPStatus, problem: str) -> Answer:
    """Say what is wrong."""
    return status, {"error": problem}


async def start(runtime: WorkflowRuntime, body: dict[str, Any]) -> Answer:
    """Start the run of an order, unless it was started before."""
    order: workflows.Order = {"order_id": number(body, "order_id"), "amount": number(body, "amount")}
    run = await runtime.start_run(workflows.order, order, run_id=run_id(order["order_id"]))
    return HTTPStatus.ACCEPTED if run.created else HTTPStatus.OK, {"run_id": run.run_id}


async def tell(runtime: WorkflowRuntime, order_id: int) -> Answer:
    """Say where an order stands, and what it waits for."""
    run = await runtime.attach(run_id(order_id)).load()
    answer = {"status": run.status, "waits_for": [awaited.name for awaited in run.awaited]}
    return HTTPStatus.OK, answer | ({"outcome": json.loads(run.output)} if run.output else {})


async def pay(runtime: WorkflowRuntime, order_id: int, body: dict[str, Any]) -> Answer:
    """Deliver a payment."""
    answer = await runtime.deliver_signal(run_id(order_id), "paid", signal_id=words(body, "payment_id"))
    return delivered("payment", answer.kind)


async def decide(runtime: WorkflowRuntime, order_id: int, body: dict[str, Any]) -> Answer:
    """Deliver a person's decision."""
    approved, who = body["approved"], words(body, "by")
    if not isinstance(approved, bool):
        raise TypeError("approved must be true or false")  # to Python the text "false" would be a yes
    answer = await runtime.deliver_approval(run_id(order_id), "ship", approved=approved, decided_by=who)
    return delivered("approval", answer.kind)


def number(body: dict[str, Any], name: str) -> int:
    """Give a number of the body; to Python `true` and 7.5 would do as well."""
    value = body[name]
    if type(value) is not int or not 0 <= value <= LARGEST:
        raise ValueError(f"{name} must be a whole number from 0 to {LARGEST}")
    return value


def words(body: dict[str, Any], name: str) -> str:
    """Give a text of the body."""
    value = body[name]
    if not isinstance(value, str) or not value:
        raise ValueError(f"{name} must be a text that is not empty")
    return value


def run_id(order_id: int) -> str:
    """Name the run of an order: by the order, so that starting it twice is starting it once."""
    return f"order-{order_id}"


def delivered(what: str, kind: str) -> Answer:
    """Say a delivery's answer in HTTP."""
    if kind == "not-found":
        raise RunNotFoundError(what)
    return HTTPStatus.CONFLICT if kind == "finished" else HTTPStatus.OK, {what: kind}


ROUTES: list[tuple[str, str, Callable[..., Awaitable[Answer]]]] = [
    ("POST", r"/orders", start),
    ("GET", r"/orders/(\d{1,15})", tell),
    ("POST", r"/orders/(\d{1,15})/payment", pay),
    ("POST", r"/orders/(\d{1,15})/approval", decide),
]
