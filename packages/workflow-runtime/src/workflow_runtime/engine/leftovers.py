"""The ways in which a handler ends wrongly: it leaves something behind when it returns, or it never ends."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Callable, Coroutine, Iterable
from types import CodeType, CoroutineType
from typing import Any, TypeVar, cast

from ..errors import ConfigurationError
from ..escapes import text_of
from ..logs import one_line

__all__ = ["DurableCalls", "durable", "error_of_circles", "error_of_leftovers", "still_going_on", "unseen_failure"]

CallT = TypeVar("CallT", bound=Callable[..., Coroutine[Any, Any, Any]])


class DurableCalls:
    """The calls of durable operations that nobody has begun to await."""

    def __init__(self) -> None:
        self._made: list[CoroutineType[Any, Any, Any]] = []
        self._full = _FEW

    def add(self, call: CoroutineType[Any, Any, Any]) -> None:
        """Note a call, as soon as it is made."""
        made = self._made
        made.append(call)
        if len(made) >= self._full:
            self._made = self.forgotten()
            self._full = max(_FEW, 2 * len(self._made))

    def forgotten(self) -> list[CoroutineType[Any, Any, Any]]:
        """Return those that nobody has begun to await, in the order of the calls."""
        # What `inspect.getcoroutinestate` calls created, for many at once.
        return [
            call for call in self._made if not call.cr_suspended and not call.cr_running and call.cr_frame is not None
        ]

    def close(self) -> None:
        """End them all, so that Python does not complain about each one of a handler that was taken down."""
        for call in self.forgotten():
            call.close()
        self._made.clear()


_FEW = 64
"""Number of coroutines from which on the awaited ones are looked for and dropped."""


def durable(operation: CallT) -> CallT:
    """Decorate a durable operation, so that a call is known when it is made and not only when it is awaited.

    What it gives is the coroutine itself: `create_task`, `gather` and `TaskGroup` take it.
    """
    code = inspect.unwrap(operation).__code__

    @functools.wraps(operation)
    def call(owner: Any, /, *args: Any, **kwargs: Any) -> Coroutine[Any, Any, Any]:
        coroutine = operation(owner, *args, **kwargs)
        owner._calls.add(coroutine)  # noqa: SLF001  # of the decorated method's object
        return coroutine

    _OPERATIONS.add(code)
    if mark := getattr(inspect, "markcoroutinefunction", None):  # since Python 3.12
        mark(call)
    return cast("CallT", call)


_OPERATIONS: set[CodeType] = set()


def still_going_on(task: asyncio.Task[Any], waits_for: Iterable[str]) -> str:
    """Describe what a task that lives was doing."""
    what = ", ".join(waits_for)
    name = _described(task.get_coro())
    return f"{name} was still going on" + (f" (waiting for {what})" if what and what != name else "")


def unseen_failure(error: BaseException) -> str:
    """Describe a task that failed while nobody looked."""
    return f"a task failed and nobody awaited it ({type(error).__qualname__}: {one_line(text_of(error))})"


def error_of_leftovers(forgotten: Iterable[Coroutine[Any, Any, Any]], others: Iterable[str]) -> ConfigurationError:
    """Make the error that ends a run whose handler returned too early."""
    problems = [*(f"{_described(call)} was never awaited" for call in forgotten), *others]
    shown = "; ".join(problems[:_SHOWN]) + (f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else "")
    return ConfigurationError(
        f"the handler returned before all that it began was done: {shown}. Await what a handler begins, or cancel it"
    )


_SHOWN = 10


def error_of_circles(turns: int, tasks: Iterable[asyncio.Task[Any]]) -> ConfigurationError:
    """Make the error that ends a run whose handler goes on and on without waiting for anything."""
    running = [task for task in tasks if (waits_for := getattr(task, "_fut_waiter", None)) is None or waits_for.done()]
    where = "; ".join(_place(task.get_coro()) for task in running[:_SHOWN])
    return ConfigurationError(
        f"the handler goes round in circles: it took {turns} turns of its event loop without waiting for anything "
        f"durable. Running: {where or 'callbacks'}. Await a task instead of asking again and again whether it is done"
    )


def _place(coroutine: Any) -> str:
    """Return where a coroutine stands: in the innermost one that it awaits and that is not asyncio's."""
    while _is_of_handler(awaited := getattr(coroutine, "cr_await", None)):
        coroutine = awaited
    frame = getattr(coroutine, "cr_frame", None)
    where = "" if frame is None else f" at {frame.f_code.co_filename}:{frame.f_lineno}"
    return f"{getattr(coroutine, '__qualname__', 'something')}(){where}"


def _is_of_handler(awaited: Any) -> bool:
    frame = getattr(awaited, "cr_frame", None)
    return frame is not None and not frame.f_globals.get("__name__", "").startswith("asyncio")


def _described(coroutine: Any) -> str:
    frame = getattr(coroutine, "cr_frame", None)
    if frame is not None and frame.f_code in _OPERATIONS:
        return _operation(frame.f_code.co_name, frame.f_locals)
    if not inspect.iscoroutine(coroutine):
        return "the end of an asynchronous generator"
    return f"task {coroutine.__qualname__}()"


def _operation(method: str, arguments: dict[str, Any]) -> str:
    if (function := arguments.get("fn")) is not None:
        step_id = arguments.get("id") or getattr(arguments["self"], "_id", None)
        return f"step {step_id or getattr(function, '__name__', 'step')!r}"
    subject = arguments.get("approval_id") or arguments.get("name")
    return f"{method}({subject!r})" if subject is not None else f"{method}()"
