"""An event loop for one handler, in which "every branch is blocked" is a fact and not a guess.

A handler runs on this loop, its steps run on the application's own loop. Nothing here waits for anything: the
loop runs what is ready and stops. When nothing is ready, every branch of the handler (`gather`, `TaskGroup`,
plain tasks) waits for a durable operation. And since results are fed one at a time, in the order of the event
log, the branches interleave in a replay exactly as they did the first time.

What would make a replay differ (timers, threads, sockets) does not exist here and says so.
"""

from __future__ import annotations

import asyncio
import math
import sys
import time
from asyncio.events import _get_running_loop, _set_running_loop
from asyncio.mixins import _LoopBoundMixin
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from typing import Any, NoReturn, TypeAlias, TypeVar
from weakref import ref

from ..escapes import exc_info_of, is_interrupt
from ..isolation import LoopOfHandler, foreign_module, refused
from ..logs import get_logger, one_line

__all__ = ["HandlerTask", "WorkflowLoop"]

T = TypeVar("T")
_Lineage: TypeAlias = "tuple[int, _Lineage | None]"
logger = get_logger("workflow_runtime")


class HandlerTask(asyncio.Task[T]):
    """A task that hashes by its number, and knows by whose call it came to be.

    `TaskGroup` and `asyncio.wait` keep tasks in sets. By default a set of tasks is ordered by their addresses, and
    a group would cancel its tasks in another order in a replay.
    """

    def __init__(
        self, coro: Coroutine[Any, Any, T], number: int, maker: asyncio.Task[Any] | None, **options: Any
    ) -> None:
        # While it is made, asyncio adds it to the set of all tasks of the process. There each run would have a first
        # task of this hash, a second one, and so on: to add one would take time in proportion to the runs.
        self.number = object.__hash__(self)
        # Numbers, not tasks: a child must not keep its ended parent alive.
        self.lineage: _Lineage = (number, maker.lineage if isinstance(maker, HandlerTask) else None)
        super().__init__(coro, **options)
        self.number = number

    def descends_from(self, other: HandlerTask[Any]) -> bool:
        """Return whether the other one is this task, or has made it, or has made who made it, and so on."""
        lineage: _Lineage | None = self.lineage
        while lineage is not None:
            if lineage[0] == other.number:
                return True
            lineage = lineage[1]
        return False

    def __hash__(self) -> int:
        return self.number


class WorkflowLoop(LoopOfHandler):
    """The event loop of one handler. A machine runs it, on demand, inside a callback of the application's loop.

    Args:
        run_id: Whose handler.
        package: The top-level package of the handler's own code; when absent, all code is.
    """

    def __init__(self, run_id: str, package: str | None = None) -> None:
        self.called_from: str | None = None
        """The thread that has called back, as if this loop waited for threads."""
        self.turns: int = 0
        """Number of callbacks that have run."""
        self._run_id = run_id
        self._package = package
        self.ready: deque[asyncio.Handle] = deque()
        """The callbacks that are to run next."""
        self._tasks: list[ref[asyncio.Task[Any]]] = []
        """The tasks in the order in which they were made. A task that has ended and that nobody holds is gone."""
        self._many = _FEW
        self._tasks_made = 0
        self._unseen_failures: list[BaseException] = []
        """Failures of tasks that are gone already."""
        self._bound: list[_LoopBoundMixin] = []
        self._closed = False

    @property
    def tasks_made(self) -> int:
        """Number of tasks that there have been."""
        return self._tasks_made

    def run_until_blocked(self, max_callbacks: int | None = None, until_s: float = math.inf) -> bool:
        """Run everything that is ready, and what becomes ready by that.

        Must not be called while a task of the running loop is the current one (see `HandlerTurns`): since Python 3.14
        a thread has one current task, whatever loop it belongs to.

        Args:
            max_callbacks: Give up after so many; `None` means never.
            until_s: Give up at this moment (of `time.perf_counter`), but not before one callback.

        Returns:
            Whether nothing is ready any more.
        """
        outer, outer_hooks = _get_running_loop(), sys.get_asyncgen_hooks()
        # Meant for those who implement event loops (and exported by asyncio.events for them).
        _set_running_loop(self)
        sys.set_asyncgen_hooks(firstiter=None, finalizer=self._close_generator)
        try:
            ran, ready, most = 0, self.ready, math.inf if max_callbacks is None else max_callbacks
            while ready and ran < most:
                handle = ready.popleft()
                if not handle.cancelled():
                    self._run(handle)
                ran += 1
                if time.perf_counter() >= until_s:
                    break
        finally:
            self.turns += ran
            sys.set_asyncgen_hooks(*outer_hooks)
            _set_running_loop(outer)
            if self._bound:
                self._unbind()
        return not self.ready

    def _run(self, handle: asyncio.Handle) -> None:
        """Run a callback. `sys.exit()` in a handler ends the run (its task holds it as its error), not the worker."""
        try:
            handle._run()  # noqa: SLF001  # what a loop does with its handles
        except BaseException as error:
            # As in asyncio, only KeyboardInterrupt and SystemExit pass.
            if is_interrupt(error):
                raise
            if not isinstance(getattr(handle._callback, "__self__", None), asyncio.Task):  # type: ignore[attr-defined]  # noqa: SLF001
                self.call_exception_handler({"message": "a callback of the handler asked to exit", "exception": error})

    def cancel_tasks(self) -> None:
        """Cancel every task that has not ended."""
        for task in self._known_tasks():
            task.cancel()

    def living_tasks(self) -> list[asyncio.Task[Any]]:
        """Return the tasks that have not ended, in the order in which they were made."""
        return [task for task in self._known_tasks() if not task.done()]

    def unseen_failures(self) -> list[BaseException]:
        """Return the errors of tasks that nobody has looked at, unless the handler has cancelled them."""
        failed = (task for task in self._known_tasks() if _failed_unseen(task))
        return [*self._unseen_failures, *(error for task in failed if (error := task.exception()) is not None)]

    def _known_tasks(self) -> list[asyncio.Task[Any]]:
        return [task for known in self._tasks if (task := known()) is not None]

    def close(self) -> None:
        """Forget everything; what is still pending never runs."""
        self._closed = True
        self.ready.clear()

    # What asyncio's tasks, futures, groups and queues need of a loop.

    def call_soon(  # type: ignore[override]  # typeshed ties the arguments to the callback's signature
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Queue a callback."""
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self.ready.append(handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        """Make a future that belongs to this loop.

        Raises:
            ConfigurationError: A library other than asyncio asks: it is about to wait for a thread or a socket.
        """
        caller = sys._getframe(1)  # noqa: SLF001  # the documented way
        package = caller.f_globals.get("__name__", "").partition(".")[0]
        if self._package is not None and package not in {"asyncio", self._package}:
            raise refused(f"what waits for threads or I/O ({foreign_module(caller)} does)", "asyncio.Event or Queue")
        if caller.f_code is asyncio.wrap_future.__code__:
            raise refused("the result of a thread (asyncio.wrap_future)")
        if package == "asyncio" and isinstance(bound := caller.f_locals.get("self"), _LoopBoundMixin):
            self._bound.append(bound)
        return asyncio.Future(loop=self)

    def _unbind(self) -> None:
        # A lock or a queue belongs for ever to the loop on which somebody first had to wait for it. One that is the
        # application's (the queue of a pool, say) must not bind itself to this loop.
        for bound in self._bound:
            if getattr(bound, "_loop", None) is self:
                bound._loop = None  # type: ignore[attr-defined]  # typeshed hides it  # noqa: SLF001
        self._bound.clear()

    def call_soon_threadsafe(  # type: ignore[override]  # as above
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        """Refuse the handler; to a thread, remember that it has called, and do nothing."""
        if self.is_running():
            raise refused("a call from another thread (call_soon_threadsafe)")
        # An error here would end the calling thread, a client's, and leave all that wait for it hanging.
        if not self._closed:
            from threading import current_thread  # noqa: PLC0415  # there are Pythons without threads

            self.called_from = current_thread().name
        handle = asyncio.Handle(callback, args, self, context)
        handle.cancel()
        return handle

    def create_task(self, coro: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:  # type: ignore[override]  # typeshed narrows the coroutine's type
        """Make a task that runs on this loop."""
        self._tasks_made += 1
        maker = asyncio.current_task(self) if self.is_running() else None
        task = HandlerTask(coro, self._tasks_made, maker, loop=self, **options)
        self._tasks.append(ref(task))
        if len(self._tasks) > self._many:
            self._tasks = [ref(alive) for alive in self._known_tasks()]
            self._many = max(_FEW, 2 * len(self._tasks))
        return task

    def _close_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        # An abandoned `async for` ends on this loop, where its `finally` may use durable operations.
        self.call_soon(lambda: self.create_task(generator.aclose()))

    def get_debug(self) -> bool:
        """Return False: there is no debug mode."""
        return False

    def is_running(self) -> bool:
        """Return whether this loop is the one that runs now."""
        return _get_running_loop() is self

    def is_closed(self) -> bool:
        """Return whether it was closed."""
        return self._closed

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what nobody handled, unless the handler was taken down; remember the errors that nobody looked at."""
        if not self._closed:
            future = context.get("future")
            if future is not None and not _was_cancelled(future) and (failure := context.get("exception")) is not None:
                self._unseen_failures.append(failure)
            message, error = context.get("message"), context.get("exception")
            exc_info = None if error is None else exc_info_of(error)
            logger.error("run %r: %s", self._run_id, one_line(message), exc_info=exc_info)

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        """Log what nobody handled, as `call_exception_handler` does."""
        self.call_exception_handler(context)


_FEW = 64
"""Number of tasks from which on those that are gone are looked for and dropped."""


def _was_cancelled(future: asyncio.Future[Any]) -> bool:
    return isinstance(future, asyncio.Task) and future.cancelling() > 0


def _failed_unseen(task: asyncio.Task[Any]) -> bool:
    # asyncio's own flag: it logs exceptions that were never retrieved when a task is collected.
    return task.done() and bool(getattr(task, "_log_traceback", False)) and not _was_cancelled(task)


def _refusal(what: str, instead: str = "") -> Callable[..., NoReturn]:
    def refuse(self: WorkflowLoop, *args: Any, **options: Any) -> NoReturn:
        raise refused(what, instead)

    return refuse


_TIME = "ctx.now(), ctx.sleep() or the timeout= of a step or a durable wait"
_REFUSED = {
    "time": ("the event loop's clock", _TIME),
    "call_later": ("asyncio.sleep() or a timeout of asyncio", _TIME),
    "call_at": ("asyncio.timeout()", _TIME),
    "run_in_executor": ("a thread",),
}
_IO = ("sock_", "create_", "start_", "connect_", "add_", "remove_", "subprocess_", "getaddrinfo", "getnameinfo")

# For the rest (sockets, processes, signals, resolvers) AbstractEventLoop raises a bare NotImplementedError.
for _name in dir(asyncio.AbstractEventLoop):
    if _name in _REFUSED:
        setattr(WorkflowLoop, _name, _refusal(*_REFUSED[_name]))
    elif _name.startswith(_IO) and _name not in vars(WorkflowLoop):
        setattr(WorkflowLoop, _name, _refusal(f"I/O (loop.{_name})"))
