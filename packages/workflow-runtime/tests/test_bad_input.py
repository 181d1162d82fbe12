"""Bad input at the runtime's edge: each a specific error that names the argument, before anything is written."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import pytest
from workflow_runtime import (
    ConfigurationError,
    Context,
    DuplicateWorkflowError,
    InvalidArgumentError,
    InvalidPayloadError,
    PayloadTooLargeError,
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
    UnknownWorkflowError,
    WorkflowError,
    WorkflowRuntime,
    workflow,
)

if TYPE_CHECKING:
    from conftest import Lab

BAD_IDS = {
    "empty": "",
    "too long": "é" * 257,
    "nul": "a\0b",
    "surrogate": "a\udc80",
    "number": 5,
}
BAD_PAYLOADS: dict[str, tuple[Any, str]] = {
    "nan": ({"a": [0.5, float("nan")]}, "$.a[1]"),
    "infinity": ([float("inf")], "$[0]"),
    "set": ({"a": {"b": {1}}}, "$.a.b"),
    "bytes": (b"x", "$"),
    "object": ([object()], "$[0]"),
    "key": ({"a": [{1: 2}]}, "$.a[0]"),
    "none key": ({None: 2}, "$"),
    "datetime": ({"at": datetime(2030, 1, 1, tzinfo=UTC)}, "$.at"),
}


@workflow()
async def known(ctx: Context, _: Any) -> Any:
    return await ctx.wait_for_event("go")


Call = Callable[[WorkflowRuntime, Any], Awaitable[Any]]
ID_CALLS: dict[str, tuple[str, Call]] = {
    "start_run.run_id": ("run_id", lambda runtime, value: runtime.start_run(known, run_id=value)),
    "start_run.queue": ("queue", lambda runtime, value: runtime.start_run(known, queue=value)),
    "run_here.run_id": ("run_id", lambda runtime, value: runtime.run_here(known, run_id=value)),
    "deliver_signal.run_id": ("run_id", lambda runtime, value: runtime.deliver_signal(value, "go")),
    "deliver_signal.name": ("name", lambda runtime, value: runtime.deliver_signal("run", value)),
    "deliver_signal.signal_id": (
        "signal_id",
        lambda runtime, value: runtime.deliver_signal("run", "go", signal_id=value),
    ),
    "deliver_approval.run_id": ("run_id", lambda runtime, value: runtime.deliver_approval(value, "yes", approved=True)),
    "deliver_approval.id": (
        "approval_id",
        lambda runtime, value: runtime.deliver_approval("run", value, approved=True),
    ),
    "cancel_run.run_id": ("run_id", lambda runtime, value: runtime.cancel_run(value)),
}
PAYLOAD_CALLS: dict[str, tuple[str, Call]] = {
    "start_run": ("input", lambda runtime, value: runtime.start_run(known, value)),
    "run_here": ("input", lambda runtime, value: runtime.run_here(known, value)),
    "deliver_signal": ("payload", lambda runtime, value: runtime.deliver_signal("run", "go", value)),
}


async def refused(lab: Lab, call: Callable[[WorkflowRuntime], Awaitable[Any]]) -> WorkflowError:
    """Make a call that must fail, and check that it changed nothing."""
    runtime = lab.runtime(known)
    await runtime.start_run(known, run_id="run")
    before = lab.picture()
    with pytest.raises(WorkflowError) as refusal:
        await call(runtime)
    assert lab.picture() == before
    return refusal.value


@pytest.mark.parametrize("value", BAD_IDS.values(), ids=BAD_IDS.keys())
@pytest.mark.parametrize(("argument", "call"), ID_CALLS.values(), ids=ID_CALLS.keys())
async def test_bad_id(lab: Lab, argument: str, call: Call, value: Any) -> None:
    """Empty, over 512 bytes, with a NUL or a lone surrogate, or no string at all."""
    error = await refused(lab, lambda runtime: call(runtime, value))
    assert isinstance(error, InvalidArgumentError)
    assert error.argument == argument


async def test_id_of_512_bytes_is_fine(lab: Lab) -> None:
    """Bytes of UTF-8, not characters."""
    handle = await lab.runtime(known).start_run(known, run_id="é" * 256)
    assert handle.run_id == "é" * 256


@pytest.mark.parametrize("value", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_bad_id_of_a_handle_or_a_workflow(lab: Lab, value: Any) -> None:
    """Without a store in sight."""

    async def handler(ctx: Context, _: Any) -> None: ...

    for call in (
        lambda: lab.runtime(known).attach(value),
        lambda: workflow(id=value)(handler),
        lambda: workflow(version=value)(handler),
        lambda: lab.runtime(known, queues=["mail", value]),
    ):
        with pytest.raises(InvalidArgumentError):
            call()


@pytest.mark.parametrize(("value", "path"), BAD_PAYLOADS.values(), ids=BAD_PAYLOADS.keys())
@pytest.mark.parametrize(("argument", "call"), PAYLOAD_CALLS.values(), ids=PAYLOAD_CALLS.keys())
async def test_value_that_json_cannot_carry(lab: Lab, argument: str, call: Call, value: Any, path: str) -> None:
    """The error names the argument and the path inside the value."""
    error = await refused(lab, lambda runtime: call(runtime, value))
    assert isinstance(error, InvalidPayloadError)
    assert (error.argument, error.path) == (argument, path)
    assert path in str(error)


@pytest.mark.parametrize(("argument", "call"), PAYLOAD_CALLS.values(), ids=PAYLOAD_CALLS.keys())
async def test_payload_that_is_too_large(lab: Lab, argument: str, call: Call) -> None:
    """Larger than the store carries, by one byte."""
    error = await refused(lab, lambda runtime: call(runtime, "x" * 1_999_999))
    assert isinstance(error, PayloadTooLargeError)
    assert (error.argument, error.size, error.limit) == (argument, 2_000_001, 2_000_000)


@pytest.mark.parametrize("wanted", ["unknown", "strange"])
@pytest.mark.parametrize("verb", ["start_run", "run_here"])
async def test_unknown_workflow(lab: Lab, wanted: str, verb: str) -> None:
    """By id, or a workflow that this runtime does not have; the known ones are named."""

    @workflow()
    async def strange(ctx: Context, _: Any) -> None: ...

    error = await refused(lab, lambda runtime: getattr(runtime, verb)(strange if wanted == "strange" else wanted))
    assert isinstance(error, UnknownWorkflowError)
    assert "(registered: 'known')" in str(error)


@pytest.mark.parametrize("moment", [datetime(2030, 1, 1), "2030-01-01", 1_900_000_000])  # noqa: DTZ001  # the point
async def test_start_at_that_is_no_aware_datetime(lab: Lab, moment: Any) -> None:
    """Nobody knows which moment a naive one means."""
    error = await refused(lab, lambda runtime: runtime.start_run(known, start_at=moment))
    assert isinstance(error, InvalidArgumentError)
    assert error.argument == "start_at"


@pytest.mark.parametrize("priority", [32_768, -32_769, 1.5, "high"])
async def test_priority_out_of_range(lab: Lab, priority: Any) -> None:
    """It has to fit into what every store has room for."""
    error = await refused(lab, lambda runtime: runtime.start_run(known, priority=priority))
    assert isinstance(error, InvalidArgumentError)
    assert error.argument == "priority"


@pytest.mark.parametrize("options", [{"limit": -1}, {"concurrency": 0}, {"concurrency": -5}])
async def test_negative_limits(lab: Lab, options: dict[str, Any]) -> None:
    """Refused before anything is claimed."""
    error = await refused(lab, lambda runtime: runtime.sweep(**options))
    assert isinstance(error, InvalidArgumentError)
    assert error.argument == next(iter(options))
    if "concurrency" in options:
        error = await refused(type(lab)(), lambda runtime: runtime.work(handle_signals=False, **options))
        assert isinstance(error, InvalidArgumentError)


@pytest.mark.parametrize(
    ("options", "argument"),
    [
        ({"lease": timedelta(milliseconds=99)}, "lease"),
        ({"lease": -timedelta(seconds=1)}, "lease"),
        ({"max_crashes": 0}, "max_crashes"),
        ({"owner": "a\0b"}, "owner"),
        ({"queues": "mail"}, "queues"),
    ],
)
def test_runtime_with_bad_options(lab: Lab, options: dict[str, Any], argument: str) -> None:
    """When it is put together, not at its first claim."""
    with pytest.raises(InvalidArgumentError) as refusal:
        lab.runtime(known, **options)
    assert refusal.value.argument == argument


@pytest.mark.parametrize(
    "text", [{"comment": "a\0b"}, {"decided_by": "\udc80"}, {"comment": "x" * 5_000}, {"decided_by": 5}]
)
async def test_texts_of_an_approval(lab: Lab, text: dict[str, Any]) -> None:
    """For a person to read: text that every store carries, and not a whole book."""
    error = await refused(lab, lambda runtime: runtime.deliver_approval("run", "yes", approved=True, **text))
    assert isinstance(error, InvalidArgumentError)
    assert error.argument == next(iter(text))


async def test_reason_of_a_cancellation(lab: Lab) -> None:
    """The same."""
    error = await refused(lab, lambda runtime: runtime.cancel_run("run", reason="\0"))
    assert isinstance(error, InvalidArgumentError)
    assert error.argument == "reason"


async def test_run_id_that_is_taken(lab: Lab) -> None:
    """By the same call it is the same run; by another workflow or input an error that says what differs."""

    @workflow()
    async def other(ctx: Context, _: Any) -> None: ...

    runtime = lab.runtime(known, other)
    first = await runtime.start_run(known, {"a": 1, "b": [2]}, run_id="run")
    again = await runtime.start_run("known", {"b": [2], "a": 1}, run_id="run")
    assert (first.created, again.created, again.run_id) == (True, False, "run")
    for arguments, differs in (
        ((known, {"a": 1}), ("input",)),
        ((other, {"a": 1, "b": [2]}), ("workflow_id",)),
        ((other, None), ("workflow_id", "input")),
    ):
        for start in (runtime.start_run, runtime.run_here):
            before = lab.picture()
            with pytest.raises(RunConflictError) as conflict:
                await start(*arguments, run_id="run")
            assert conflict.value.differs == differs
            assert lab.picture() == before


def test_handler_that_is_not_async() -> None:
    """Told when it is declared."""

    def handler(ctx: Context, input: Any) -> None: ...

    async def generates(ctx: Context, input: Any) -> Any:
        yield 1

    for wrong in (handler, generates, 5):
        with pytest.raises(ConfigurationError, match="must be an `async def`"):
            workflow(id="x")(cast("Any", wrong))


def test_workflows_that_are_none(lab: Lab) -> None:
    """The usual mistake is a missing decorator."""

    async def handler(ctx: Context, input: Any) -> None: ...

    with pytest.raises(ConfigurationError, match=r"is not a workflow; decorate its handler with @workflow\(\)"):
        lab.runtime(cast("Any", handler))


def test_workflow_ids_that_are_taken(lab: Lab) -> None:
    """One id is one workflow, one id and version is one handler."""

    async def handler(ctx: Context, input: Any) -> None: ...

    one, two = workflow(id="same")(handler), workflow(id="same", version="2")(handler)
    with pytest.raises(DuplicateWorkflowError):
        lab.runtime(one, two)
    with pytest.raises(DuplicateWorkflowError):
        lab.runtime(one, one)
    with pytest.raises(DuplicateWorkflowError):
        lab.runtime(workflow(id="same", version="2", previous_versions=[one, workflow(id="same")(handler)])(handler))
    with pytest.raises(ConfigurationError, match="has the id 'same'"):
        workflow(id="another", previous_versions=[one])(handler)


async def test_handler_that_is_a_partial(lab: Lab) -> None:
    """It has no name of its own; with an id it is as good as any."""

    async def handler(greeting: str, ctx: Context, input: str) -> str:
        return greeting + input

    greets = workflow(id="greets")(functools.partial(handler, "hello "))
    assert await lab.finish(greets, "you") == "hello you"


BAD_OPERATIONS: dict[str, tuple[str, Callable[[Context], Awaitable[Any]]]] = {
    "step id": ("id", lambda ctx: ctx.step.options(id="a\0b")(str)),
    "sleep id": ("id", lambda ctx: ctx.sleep(timedelta(0), id="")),
    "sleep seconds": ("duration", lambda ctx: ctx.sleep(cast("Any", 5))),
    "sleep for ever": ("duration", lambda ctx: ctx.sleep(timedelta.max)),
    "sleep until naive": ("moment", lambda ctx: ctx.sleep_until(datetime(2030, 1, 1))),  # noqa: DTZ001
    "wait name": ("name", lambda ctx: ctx.wait_for_event("")),
    "wait timeout": ("timeout", lambda ctx: ctx.wait_for_event("x", timeout=cast("Any", 5))),
    "wait timeout for ever": ("timeout", lambda ctx: ctx.wait_for_event("x", timeout=timedelta.max)),
    "wait id": ("id", lambda ctx: ctx.wait_for_event("x", id="é" * 257)),
    "approval id": ("approval_id", lambda ctx: ctx.approve("\udc80")),
    "approval timeout": ("timeout", lambda ctx: ctx.approve("x", timeout=cast("Any", "soon"))),
    "step timeout": ("timeout", lambda ctx: ctx.step.options(timeout=cast("Any", 5))(str)),
    "emit name": ("name", lambda ctx: ctx.emit("")),
    "emit payload": ("payload", lambda ctx: ctx.emit("x", {"a": {1}})),
    "emit large": ("payload", lambda ctx: ctx.emit("x", "x" * 2_000_000)),
}


@pytest.mark.parametrize(("argument", "call"), BAD_OPERATIONS.values(), ids=BAD_OPERATIONS.keys())
async def test_bad_operation(lab: Lab, argument: str, call: Callable[[Context], Awaitable[Any]]) -> None:
    """The handler gets the error at the call, can catch it, and nothing is recorded."""

    @workflow()
    async def mistaken(ctx: Context, _: Any) -> Any:
        with pytest.raises(InvalidArgumentError) as refusal:
            await call(ctx)
        return refusal.value.argument

    assert await lab.finish(mistaken, run_id="run") == argument
    assert await lab.log("run") == ["run-finished"]


@pytest.mark.parametrize("output", [{1, 2}, "x" * 2_000_000, float("nan")], ids=["set", "large", "nan"])
async def test_output_that_cannot_be_carried(lab: Lab, output: Any) -> None:
    """The run ends as `errored`: what it returned cannot be kept."""

    @workflow()
    async def returns(ctx: Context, _: Any) -> Any:
        await ctx.emit("before")
        return output

    with pytest.raises(RunFailedError, match="output: "):
        await lab.finish(returns, run_id="run")
    assert await lab.log("run") == ["emitted emit:before", "run-errored"]


async def test_handle_of_a_run_that_is_not_there(lab: Lab) -> None:
    """Every look at it says so."""
    handle = lab.runtime(known).attach("nowhere")
    for look in (handle.load, handle.status, handle.result):
        with pytest.raises(RunNotFoundError, match="there is no run 'nowhere'"):
            await look()
