"""The isolation of a handler's code from the runtime, stores, and clients of the application.

A handler is run again in every replay, so what it did there would be done again. And whatever belongs to the
application's event loop (a pool, a connection, a lock) breaks when it is used on another one, often late and somewhere
else. So both are refused at the entrance, before anything has happened, with an error that says what to do instead.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
from asyncio.events import Handle, _get_running_loop
from collections.abc import Callable, Coroutine
from types import FrameType, TracebackType
from typing import Any, TypeVar

from .errors import ConfigurationError
from .escapes import text_of

__all__ = [
    "Fence",
    "LoopOfHandler",
    "foreign_module",
    "outside_handlers",
    "package_of",
    "refuse_in_handler",
    "refused",
    "with_advice",
]

ClassT = TypeVar("ClassT", bound=type)


class LoopOfHandler(asyncio.AbstractEventLoop):
    """The mark of event loops that handlers run on."""


def refused(what: str, instead: str = "") -> ConfigurationError:
    """Make the error that a handler gets for what it cannot use."""
    better = f"Use {instead}, or do it" if instead else "Do it"
    return ConfigurationError(
        f"a workflow handler cannot use {what}: it would not be the same in a replay. {better} in a step: "
        "await ctx.step(function)"
    )


def refuse_in_handler(what: str) -> None:
    """Raise if the code of a handler is running.

    Args:
        what: What is being used.

    Raises:
        ConfigurationError: A handler runs; says that this belongs in a step.
    """
    if isinstance(_get_running_loop(), LoopOfHandler):
        raise ConfigurationError(
            f"{what} cannot be used by a workflow handler: it would happen again in every replay. Do it in a step: "
            "await ctx.step(function)"
        )


def with_advice(error: BaseException) -> BaseException:
    """Return the error to report for a handler's error: what asyncio says about foreign loops needs a translation."""
    text = text_of(error) if issubclass(type(error), RuntimeError) else ""
    if not any(words in text for words in _WORDS_OF_ASYNCIO):
        return error
    advised = refused(f"what belongs to another event loop ({text})")
    advised.__cause__ = error
    return advised


_WORDS_OF_ASYNCIO = (
    "attached to a different loop",
    "bound to a different event loop",
    "from a running event loop",
    "while another loop is running",
    "is already running",
)


def package_of(handler: Callable[..., Any]) -> str:
    """Name the top-level package of a handler's own code."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return str(getattr(inspect.unwrap(handler), "__module__", None)).partition(".")[0]


def outside_handlers(cls: ClassT) -> ClassT:
    """Decorate a class whose `async def` methods are not for handlers: they refuse before anything else happens."""
    for name, method in list(vars(cls).items()):
        if name.startswith("_"):
            continue
        if inspect.iscoroutinefunction(method):
            setattr(cls, name, _refusing(name, method))
        elif inspect.isasyncgenfunction(method):
            setattr(cls, name, _refusing_generator(name, method))
    return cls


def _refusing(name: str, method: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
    @functools.wraps(method)
    async def call(self: object, *args: Any, **kwargs: Any) -> Any:
        refuse_in_handler(f"{type(self).__name__}.{name}()")
        return await method(self, *args, **kwargs)

    return call


def _refusing_generator(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: object, *args: Any, **kwargs: Any) -> Any:
        refuse_in_handler(f"{type(self).__name__}.{name}()")
        return method(self, *args, **kwargs)

    return call


class Fence:
    """A block in which the application's event loop refuses what the code of a handler asks of it.

    A client that was made on that loop (a pool of asyncpg, say) asks the loop itself for a future or a timer, also when
    another loop is running, and sends its request before it finds out. So the loop is borrowed for the time of one
    callback: some of its methods are covered by others, which refuse the handler and pass everything else on.

    Every future and task asks its loop for `get_debug` when it is made, in C as in Python. That makes it the one place
    that no client gets around, whatever else it has remembered of the loop.
    """

    @classmethod
    def around(cls, loop: asyncio.AbstractEventLoop) -> Fence:
        """Return the fence around a loop. All drives on a loop share one, unless somebody has covered a method."""
        names: dict[str, Any] = getattr(loop, "__dict__", {})
        known = names.get(_FENCE)
        if isinstance(known, cls) and not known.covered_by_others():
            return known
        made = cls(loop)
        if not made.covered_by_others():
            names[_FENCE] = made
        return made

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        # A loop without a dictionary cannot be borrowed; such a client then gets asyncio's own error, but later.
        self._names: dict[str, Any] = getattr(loop, "__dict__", {})
        self._covers = {"get_debug": _cover_of_futures(loop)}
        for name in _COVERED:
            if (method := getattr(loop, name, None)) is not None:
                self._covers[name] = _cover(name, method)
        self._before: dict[str, Any] = {}

    def covered_by_others(self) -> bool:
        """Return whether somebody else has covered a method, a test say. To be asked outside of the block."""
        return not self._covers.keys().isdisjoint(self._names)

    def __enter__(self) -> None:
        names, covers = self._names, self._covers
        if not covers.keys().isdisjoint(names):  # covered by others
            self._before = {name: names[name] for name in covers if name in names}
        names.update(covers)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        names = self._names
        for name in self._covers:
            del names[name]
        if self._before:
            names.update(self._before)
            self._before = {}


_FENCE = "_fence_of_workflow_runtime"
"""Place in which a loop keeps its fence: the two hold each other, so a table of fences would keep all loops alive."""
_COVERED = (
    "add_reader",
    "add_writer",
    "call_at",
    "call_later",
    "call_soon_threadsafe",
    "run_in_executor",
    "sock_sendall",
    "sock_sendto",
)
"""Methods that have an effect before they make a future, or without making one."""


def _cover(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if isinstance(_get_running_loop(), LoopOfHandler) and not _is_harmless(name):
            _refuse(sys._getframe(1))  # noqa: SLF001  # the documented way
        return method(*args, **kwargs)

    return call


def _is_harmless(name: str) -> bool:
    # A log handler may hand something over to the application. Only this function begins work there.
    if name != "call_soon_threadsafe":
        return False
    return sys._getframe(2).f_code is not asyncio.run_coroutine_threadsafe.__code__  # noqa: SLF001


def _cover_of_futures(loop: asyncio.AbstractEventLoop) -> Callable[[], bool]:
    get_debug = loop.get_debug

    def call() -> bool:
        if isinstance(_get_running_loop(), LoopOfHandler):
            frame = sys._getframe(1)  # noqa: SLF001
            # Handles are made by everything that calls back into the application, such as setting one of its events.
            if frame.f_code not in _CODE_OF_HANDLES:
                _refuse(frame)
        return get_debug()

    return call


def _refuse(frame: FrameType) -> None:
    module = foreign_module(frame)
    # A pool of asyncpg only marks a connection as taken, and cannot cope with an error there. The first statement on
    # that connection is refused.
    if module != "asyncpg.pool":
        raise refused(f"the application's event loop ({module} does)")


def foreign_module(frame: FrameType | None) -> str:
    """Name the module that called into asyncio, which `frame` may be a part of."""
    while frame is not None:
        module: str = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] not in _LOOPS:
            return module
        frame = frame.f_back
    return "asyncio"


_LOOPS = ("asyncio", "uvloop")
_CODE_OF_HANDLES = (Handle.__init__.__code__, Handle.cancel.__code__)
