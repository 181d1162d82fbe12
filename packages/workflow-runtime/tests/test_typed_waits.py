"""`wait_for_event(type=...)`: a payload of another type is an error that the handler hears, and never a wrong value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

import pytest
from workflow_runtime import Context, InvalidArgumentError, InvalidPayloadError, workflow
from workflow_runtime.testing import run_until_blocked

if TYPE_CHECKING:
    from conftest import Lab


class Paid(TypedDict):
    amount: int


class Shape(Protocol):
    sides: int


async def outcome(lab: Lab, type: Any, payload: Any) -> Any:
    """Let a handler wait for a signal of a type, and give what it got, or the error."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        try:
            return {"got": await ctx.wait_for_event("paid", type=type)}
        except (InvalidPayloadError, InvalidArgumentError) as error:
            return {"error": str(error)}

    runtime = lab.runtime(waits)
    run = await runtime.start_run(waits, run_id="run")
    await run_until_blocked(runtime)
    await runtime.deliver_signal("run", "paid", payload)
    await run_until_blocked(runtime)
    return await run.result()


@pytest.mark.parametrize(
    ("type", "payload"),
    [
        (str, "text"),
        (int, 5),
        (bool, True),
        (dict, {"a": 1}),
        (dict[str, int], {"a": 1}),
        (list[str], ["a"]),
        (Paid, {"amount": 1}),
        (object, None),
        (None, "anything"),
    ],
)
async def test_payload_of_the_type_is_given(lab: Lab, type: Any, payload: Any) -> None:
    assert await outcome(lab, type, payload) == {"got": payload}


@pytest.mark.parametrize(
    ("type", "payload", "problem"),
    [
        (str, 5, "is int, not str"),
        (int, "5", "is str, not int"),
        (dict[str, int], ["a"], "is list, not dict"),
        (Paid, None, "is NoneType, not dict"),
    ],
)
async def test_payload_of_another_type_is_an_error_of_the_wait(lab: Lab, type: Any, payload: Any, problem: str) -> None:
    """In a replay too: the signal is in the log, and the handler is told the same again."""
    assert await outcome(lab, type, payload) == {"error": f"payload of signal 'paid': at $: {problem}"}


async def test_signal_of_another_type_is_taken(lab: Lab) -> None:
    """Who asks again gets the next one, also after a replay in between."""

    @workflow()
    async def insists(ctx: Context, _: Any) -> list[Any]:
        got: list[Any] = []
        while not got or not isinstance(got[-1], int):
            try:
                got.append(await ctx.wait_for_event("paid", type=int))
            except InvalidPayloadError:
                got.append("refused")
        return got

    runtime = lab.runtime(insists)
    run = await runtime.start_run(insists, run_id="run")
    for payload in ("one", 2):
        await run_until_blocked(runtime)
        await runtime.deliver_signal("run", "paid", payload)
    await run_until_blocked(runtime)

    assert await run.result() == ["refused", 2]


@pytest.mark.parametrize("type", [int | str, Literal["a"], Any, Shape, "text", 5])
async def test_what_no_value_can_be_asked_for_is_refused_at_once(lab: Lab, type: Any) -> None:
    found = await outcome(lab, type, "text")

    assert found["error"].startswith("type: must be a class, not ")
