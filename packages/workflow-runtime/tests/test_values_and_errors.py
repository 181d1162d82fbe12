"""Public values compare, errors survive pickling, and names are there."""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import FrozenInstanceError, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import workflow_runtime
from workflow_runtime import (
    Approval,
    Context,
    Failure,
    RunAbortedError,
    RunFailedError,
    StepInfo,
    WorkflowError,
    errors,
    workflow,
)
from workflow_runtime.engine.suspended import Suspended
from workflow_runtime.frozen_value import Value, value
from workflow_runtime.store import RunStatus

if TYPE_CHECKING:
    from conftest import Lab

ERRORS = [getattr(errors, name) for name in errors.__all__]
SAMPLES: dict[str, Any] = {
    "str": "text",
    "str | None": None,
    "int": 3,
    "float": 0.5,
    "datetime | None": datetime(2030, 1, 1, tzinfo=UTC),
    "tuple[str, ...]": ("one", "two"),
    "tuple[RunConflictError, ...]": (),  # errors are never equal
    "Failure | None": Failure(error_type="ValueError", message="boom", traceback="  File ..."),
}


def make(kind: type[WorkflowError]) -> WorkflowError:
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return kind("what went wrong")
    return kind(*(SAMPLES[str(parameter.annotation)] for parameter in parameters))


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error_survives_pickling_and_copying(kind: type[WorkflowError]) -> None:
    """With its fields, its message and its type: errors travel between processes."""
    error = make(kind)
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is kind
        assert str(twin) == str(error)
        assert vars(twin) == vars(error)


@pytest.mark.parametrize("kind", ERRORS, ids=lambda kind: kind.__name__)
def test_error_belongs_to_the_tree(kind: type[WorkflowError]) -> None:
    """One root to catch, a message of its own, a place in the drawing."""
    assert issubclass(kind, WorkflowError)
    assert str(make(kind))
    assert errors.__doc__ is not None
    assert kind.__name__ in errors.__doc__


def test_errors_fit_the_builtin_ones() -> None:
    """So that code which does not know this library handles them sensibly."""
    assert issubclass(errors.InvalidArgumentError, ValueError)
    assert issubclass(errors.RunNotFoundError, LookupError)
    assert issubclass(errors.WaitTimeoutError, TimeoutError)
    assert not issubclass(errors.StepTimeoutError, TimeoutError)
    assert [kind for kind in ERRORS if getattr(kind, "retryable", False)] == [errors.StoreUnavailableError]
    assert not issubclass(Suspended, Exception)


def test_public_names_are_there() -> None:
    """Each once, each importable, none private but the version."""
    names = workflow_runtime.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(workflow_runtime, name) for name in names)
    assert [name for name in names if name.startswith("_")] == ["__version__"]
    assert set(errors.__all__) <= set(names)


def test_values_are_frozen_and_compare() -> None:
    """What a handler gets can be kept, compared and put into sets."""
    one = Approval(approved=True, decided_by="Ada", comment=None)
    assert one == Approval(approved=True, decided_by="Ada", comment=None)
    assert one != Approval(approved=False, decided_by="Ada", comment=None)
    with pytest.raises(AttributeError):
        one.approved = False  # type: ignore[misc]  # the point
    info = StepInfo(run_id="r", step_id="s", attempt=1, idempotency_key="k")
    assert info == pickle.loads(pickle.dumps(info))
    assert hash(info) == hash(copy.copy(info))


def test_a_class_of_values_says_what_it_takes() -> None:
    """Before its first value, when nothing is compiled yet, and after it; mistakes are named as for any function."""
    made = new_class()
    for _ in range(2):
        assert str(inspect.signature(made)) == "(*, name: 'str', size: 'int' = 1) -> None"
        with pytest.raises(TypeError, match=r"Box.__init__\(\) missing 1 required keyword-only argument: 'name'"):
            made()
        with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
            made(name="a", colour="red")
        with pytest.raises(ValueError, match="no size"):
            made(name="a", size=0)
        box = made(name="a")
        assert (box.name, box.size, repr(box).rpartition(".")[2]) == ("a", 1, "Box(name='a', size=1)")
        assert replace(box, size=2) == made(name="a", size=2) != box
        with pytest.raises(FrozenInstanceError, match="name"):
            del box.name


def test_first_values_of_a_class_may_be_made_on_several_threads() -> None:
    """Whoever comes first compiles."""
    with ThreadPoolExecutor(8) as threads:
        for _ in range(50):
            made = new_class()
            boxes = list(threads.map(lambda number, made=made: made(name=str(number)), range(8)))
            assert [box.name for box in boxes] == [str(number) for number in range(8)]


def test_import_compiles_little() -> None:
    """A dataclass compiles up to six functions at import. What serverless hosts do at each cold start must be quick."""
    code = """if True:
        import sys
        compiled = 0
        def hear(event, arguments):
            global compiled
            compiled += event == "compile"
        import asyncio, dataclasses
        sys.addaudithook(hear)
        import workflow_runtime
        print(compiled)
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    command = [sys.executable, "-c", code]
    subprocess.run(command, env=environment, capture_output=True, check=True)  # it may have to compile the modules
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert int(told.stdout) <= 140


def new_class() -> Any:
    @value
    class Box(Value):
        name: str
        size: int = 1

        def __post_init__(self) -> None:
            if not self.size:
                raise ValueError("no size")

    return Box


def test_workflow_tells_what_it_is() -> None:
    """Name, id, version, docstring."""

    @workflow(version="3")
    async def ship_order(ctx: Context, input: Any) -> None:
        """Ship an order."""

    assert (ship_order.id, ship_order.version, ship_order.__name__) == ("ship_order", "3", "ship_order")
    assert ship_order.__doc__ == "Ship an order."
    assert repr(ship_order) == "<Workflow 'ship_order' version '3'>"


async def test_handle_waits_for_the_result(lab: Lab) -> None:
    """While a worker elsewhere drives the run; not for ever, if so wished."""

    @workflow()
    async def waits(ctx: Context, _: Any) -> Any:
        return await ctx.wait_for_event("go")

    runtime = lab.runtime(waits)
    handle = await runtime.start_run(waits, run_id="run")
    assert (handle.run_id, handle.created, repr(handle)) == ("run", True, "<RunHandle 'run'>")
    with pytest.raises(TimeoutError):
        await handle.result(timeout=timedelta(milliseconds=5))
    async with lab.working(runtime):
        result = asyncio.create_task(runtime.attach("run").result())
        await lab.until(lambda: lab.data.runs["run"].status is RunStatus.PAUSED)
        await runtime.deliver_signal("run", "go", [1])
        assert await asyncio.wait_for(result, 5) == [1]


async def test_handle_tells_how_a_run_ended(lab: Lab) -> None:
    """An error by its type and message, an end from outside by its reason."""

    class ShopError(Exception):
        pass

    @workflow()
    async def ends(ctx: Context, how: str) -> None:
        if how == "error":
            raise ShopError("sold out")
        await ctx.wait_for_event("never")

    runtime = lab.runtime(ends)
    failed = await runtime.start_run(ends, "error")
    stopped = await runtime.start_run(ends, "stop", run_id="stopped")
    await runtime.sweep()
    await runtime.store.terminate_run(run_id="stopped", now_ms=lab.clock.now_ms(), reason="by hand")
    with pytest.raises(RunFailedError) as failure:
        await failed.result()
    assert failure.value.error_type == ShopError.__qualname__
    assert failure.value.message == "sold out"
    with pytest.raises(RunAbortedError) as abortion:
        await stopped.result()
    assert (abortion.value.run_id, abortion.value.status, abortion.value.reason) == ("stopped", "aborted", "by hand")


async def test_error_that_carries_odd_text_is_kept(lab: Lab, caplog: pytest.LogCaptureFixture) -> None:
    """A message with a lone surrogate or a NUL reaches the starter as it was."""
    caplog.set_level(logging.CRITICAL, "workflow_runtime")  # a report of the tests could not carry it

    @workflow()
    async def fails(ctx: Context, _: Any) -> None:
        raise ValueError("a\0b\udc80 ☃")

    with pytest.raises(RunFailedError) as failure:
        await lab.finish(fails)
    assert failure.value.message == "a\0b\udc80 ☃"


@pytest.mark.parametrize(
    "error", [StopIteration(1), StopAsyncIteration(), GeneratorExit(), asyncio.InvalidStateError()]
)
async def test_handler_may_raise_what_python_itself_uses(lab: Lab, error: BaseException) -> None:
    """It ends the run as `errored`, and the sweep goes on."""

    @workflow()
    async def raises(ctx: Context, _: Any) -> None:
        await ctx.now()
        raise error

    with pytest.raises(RunFailedError):
        await lab.finish(raises)
