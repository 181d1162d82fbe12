"""Calls that are cut short: cancelled at each await of the store's own code, or with an answer that nobody gets.

A call is one unit. So whatever happens to its caller, it was made or it was not, and making it again leaves what one
call leaves.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, Literal, TypeVar

from .calls import Call, Subject
from .orders import Arena

__all__ = ["MOMENTS", "PATIENCE_S", "Effect", "Moment", "cut_short"]

SubjectT = TypeVar("SubjectT", bound=Subject)
R = TypeVar("R")

Moment = Literal["waiting", "answered"]
MOMENTS: tuple[Moment, ...] = ("waiting", "answered")
"""The moments of a cancellation: as the call begins to wait, or together with what it waits for."""

_MOST_AWAITS = 100
"""The awaits of one call that are tried. A store that polls for a lock has no last one."""
_MOST_LOOKS = 20
PATIENCE_S = 30.0
"""The longest that a cancelled call may take to end, and the next call of the same handle."""


class _CancelledAt(Generic[R]):
    """A coroutine whose task is cancelled when it awaits for the n-th time."""

    def __init__(self, call: Coroutine[Any, Any, R], number: int, moment: Moment) -> None:
        self.reached = False
        """True once the task was cancelled."""
        self._call = call
        self._left = number
        self._moment: Moment = moment

    async def run(self) -> R:
        """Run it as the present task."""
        return await self

    def __await__(self) -> Generator[Any, Any, R]:
        task = asyncio.current_task()
        assert task is not None
        steps = self._call.__await__()
        step: Callable[[], Any] = partial(steps.send, None)
        while True:
            try:
                awaited = step()
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]  # a generator's value has no type
            self._left -= 1
            if not self._left:
                self.reached = True
                self._cancel(task, awaited)
            try:
                step = partial(steps.send, (yield awaited))
            except BaseException as error:  # noqa: BLE001  # the call's own business, also a cancellation
                step = partial(steps.throw, error)

    def _cancel(self, task: asyncio.Task[Any], awaited: Any) -> None:
        if self._moment == "answered" and asyncio.isfuture(awaited):
            # Before the task's own callback: the cancellation and the result reach it together.
            awaited.add_done_callback(lambda _: task.cancel())
        else:
            asyncio.get_running_loop().call_soon(task.cancel)


async def cut_short(arena: Arena[SubjectT], call: Call[SubjectT], moment: Moment) -> int:
    """Cancel a call at each of its awaits in turn, and assert that it stays one unit.

    Args:
        arena: Where its subjects come from.
        call: Changes something in the arena's state.
        moment: When the cancellation comes.

    Returns:
        The number of awaits at which it was cancelled.
    """
    effect = await Effect.of(arena, call)
    handle = (await arena.h.handles(3))[2]
    for number in range(1, _MOST_AWAITS + 1):
        subject = await arena.make(arena.h, arena.state)
        where = f"{call} at a subject that is {arena.state}, cancelled at await {number} ({moment})"
        was_cancelled = await _cancel(call.answer(handle, subject, 0), number, moment, where)
        await effect.check_whole(subject, where if was_cancelled else f"{call} whose answer was lost")
        if not was_cancelled:
            return number - 1
        try:
            async with asyncio.timeout(PATIENCE_S):
                await handle.load_run(run_id="nobody")
        except TimeoutError:
            raise AssertionError(f"{where}, and its handle serves no other call for {PATIENCE_S:g} s") from None
    subject = await arena.make(arena.h, arena.state)
    await call.answer(handle, subject, 0)
    await effect.check_whole(subject, f"{call} whose answer was lost")
    return _MOST_AWAITS


async def _cancel(call: Coroutine[Any, Any, R], number: int, moment: Moment, where: str) -> bool:
    """Run a call, and cancel it at one of its awaits. Return False if it has no so many awaits."""
    cancelled = _CancelledAt(call, number, moment)
    task = asyncio.create_task(cancelled.run())
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    assert done, f"{where}, does not end within {PATIENCE_S:g} s"
    if not cancelled.reached:
        task.result()
        return False
    if not task.cancelled():
        error = task.exception()
        raised = f"raised {error!r}" if error is not None else f"returned {task.result()!r}"
        raise AssertionError(f"{where}, {raised} instead of CancelledError") from error
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect(Generic[SubjectT]):
    """The effect of one call on a subject in a state, as it was seen on subjects of its own."""

    arena: Arena[SubjectT] = field(repr=False)
    call: Call[SubjectT]
    before: str
    """The state without the call."""
    after: str
    """The state after it."""
    left: str
    """The outcome that a race would compare."""

    @classmethod
    async def of(cls, arena: Arena[SubjectT], call: Call[SubjectT]) -> Effect[SubjectT]:
        """Return the effect of a call, made twice without disturbance."""
        subject = await arena.make(arena.h, arena.state)
        before = await arena.glance(arena.h, subject)
        await call.answer(arena.h.store, subject, 0)
        after = await arena.glance(arena.h, subject)
        left = (await arena.in_order([call], [0])).left
        return cls(arena=arena, call=call, before=before, after=after, left=left)

    async def check_whole(self, subject: SubjectT, what: str, *, answered: bool = False) -> None:
        """Assert that a disturbed call was made or was not, and that making it again leaves what one call leaves.

        Args:
            subject: What the call was about. Nobody else has called.
            what: Names the call and the disturbance, for the report.
            answered: The caller got an answer, so the call was made.
        """
        seen = await self._settled(subject)
        assert seen == self.after or not answered, f"{what}, was answered, and left\n  {seen}\n  not\n  {self.after}"
        assert seen in (self.before, self.after), (
            f"{what}, did a part of what it does:\n  {seen}\n  before:\n  {self.before}\n  after:\n  {self.after}"
        )
        answer = await self.call.answer(self.arena.h.second, subject, 0)
        left = await self.arena.look(self.arena.h, subject, [self.call])
        assert left == self.left, (
            f"{what}, and made again (it answered {answer}), left\n  {left}\n  one call leaves\n  {self.left}"
        )

    async def _settled(self, subject: SubjectT) -> str:
        """Return what is there, as soon as two looks agree: a call may be done after its caller has gone."""
        seen = await self.arena.glance(self.arena.h, subject)
        for _ in range(_MOST_LOOKS):
            again = await self.arena.glance(self.arena.h, subject)
            if again == seen:
                break
            seen = again
        return seen
