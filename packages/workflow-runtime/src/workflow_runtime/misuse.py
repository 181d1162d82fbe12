"""Errors for the usual mistakes of a caller, with what to write instead."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import FunctionType
from typing import Any, TypeVar

from .errors import ConfigurationError, InvalidArgumentError

__all__ = ["asyncio_advice", "call_misfits", "check_function", "checked_store", "is_async", "name_of_callable"]

StoreT = TypeVar("StoreT")


def checked_store(store: StoreT) -> StoreT:
    """Refuse what is no open store.

    Raises:
        ConfigurationError: A store that was not opened, a class, or something else.
    """
    given: Any = store
    if isinstance(given, type):
        raise ConfigurationError(f"store must be an open store, not the class {given.__name__}: make or open one first")
    if not hasattr(given, "capabilities"):
        if inspect.iscoroutine(given):
            given.close()
        if inspect.isawaitable(given) or hasattr(given, "__aenter__"):
            raise ConfigurationError(
                "the store is not open yet: write `async with ....open(...) as store:`, or connect(...), and give "
                "WorkflowRuntime that store"
            )
        raise ConfigurationError(f"store must be a workflow store, not {type(given).__name__}: it has no capabilities")
    return store


def check_function(fn: object) -> None:
    """Refuse what a step cannot call.

    Raises:
        InvalidArgumentError: A coroutine, say: it was called already, and could not be called for another attempt.
    """
    if type(fn) is FunctionType:
        return
    if inspect.iscoroutine(fn):
        name = fn.__name__
        fn.close()  # nobody will await it
        problem = f"is a coroutine, called already: write ctx.step({name}, ...) instead of ctx.step({name}(...))"
        raise InvalidArgumentError("fn", problem)
    if inspect.isawaitable(fn):
        problem = f"is a {type(fn).__name__} that runs already: pass an `async def` that makes and awaits it"
        raise InvalidArgumentError("fn", problem)
    if not callable(fn):
        raise InvalidArgumentError("fn", f"must be a function, not {type(fn).__name__}; pass it without calling it")


def name_of_callable(function: object) -> str:
    """Name a function for a message."""
    try:
        return str(function.__qualname__)  # type: ignore[attr-defined]  # if it has one
    except Exception:  # noqa: BLE001  # it has none, or __getattr__ is the user's code
        return type(function).__name__


def call_misfits(function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return True if a function, whose call raised `TypeError` before anything else, can never take these arguments."""
    try:
        inspect.signature(function).bind(*args, **kwargs)
    except TypeError:
        return True
    except Exception:  # noqa: BLE001  # it has no signature that can be read
        return True
    return False


def is_async(function: Any) -> bool:
    """Return True if a function is an `async def`, also one that answers no question about itself."""
    if type(function) is FunctionType and function.__code__.co_flags & inspect.CO_COROUTINE:
        return True
    try:
        return inspect.iscoroutinefunction(function)
    except Exception:  # noqa: BLE001  # __getattr__ may be the user's code
        return False


def asyncio_advice(function: Callable[..., Any], error: BaseException, text: str) -> ConfigurationError | None:
    """Return the error for a plain function that uses asyncio as if it ran on an event loop; `None` for any other."""
    if not issubclass(type(error), RuntimeError) or not any(words in text for words in _WORDS_OF_ASYNCIO):
        return None
    name = name_of_callable(function)
    advice = ConfigurationError(
        f"{name} uses asyncio and is no `async def`: a plain function runs on a thread, without an event loop. Pass an "
        "`async def` that awaits it (for several at once: several ctx.step calls in asyncio.gather)"
    )
    advice.__cause__ = error
    return advice


_WORDS_OF_ASYNCIO = ("no current event loop", "no running event loop")
