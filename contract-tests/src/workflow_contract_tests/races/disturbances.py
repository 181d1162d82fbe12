"""Calls that are disturbed at their statements: the connection breaks, or the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from workflow_runtime.errors import StoreError
from workflow_runtime.store import WorkflowExecutionStore

from ..harness import StoreHarness
from ..statements import Disturbance, Passage, Statements
from .calls import Call, Subject
from .interruptions import PATIENCE_S, Effect
from .orders import Arena

__all__ = ["disturb"]

SubjectT = TypeVar("SubjectT", bound=Subject)

_MOST_STATEMENTS = 100
"""The statements of one call that are disturbed. A store that polls for a lock has no last one."""


async def disturb(
    arena: Arena[SubjectT], call: Call[SubjectT], disturbance: Disturbance, *, again: Sequence[Disturbance] = ()
) -> int:
    """Disturb a call at each of its statements in turn, and assert that it stays one unit.

    Args:
        arena: The place where its subjects come from.
        call: Changes something in the arena's state.
        disturbance: What happens at the statement.
        again: What happens besides at the first statement of the call that is made next, each in a trial of its own.

    Returns:
        The number of points at which it was disturbed.
    """
    trials = _Trials(await Effect.of(arena, call), (await arena.h.handles(3))[2])
    points = 0
    for number in range(1, _MOST_STATEMENTS + 1):
        if not await trials.run((number, disturbance)):
            break
        points += 1
        for second in again:
            points += await trials.run((number, disturbance), (1, second))
    assert points, f"{call} at a subject that is {arena.state} sends no statement through the harness's `statements`"
    return points


@dataclass(frozen=True, slots=True)
class _Trials(Generic[SubjectT]):
    """The trials of one call, all through one handle."""

    effect: Effect[SubjectT]
    handle: WorkflowExecutionStore

    async def run(self, *disturbances: tuple[int, Disturbance]) -> bool:
        """Make the call once for each disturbance. Return False if it does not send so many statements."""
        arena, call = self.effect.arena, self.effect.call
        subject = await arena.make(arena.h, arena.state)
        said = ", then ".join(f"statement {number} {disturbance}" for number, disturbance in disturbances)
        where, answered = f"{call} at a subject that is {arena.state}, {said}", False
        for number, disturbance in disturbances:
            with _statements(arena.h).disturbed(number, disturbance) as passage:
                answered = await self._call(subject, passage, where) or answered
            if not passage.reached:
                return False
        await self.effect.check_whole(subject, where, answered=answered)
        await self._check_handle(where)
        return True

    async def _call(self, subject: SubjectT, passage: Passage, where: str) -> bool:
        """Return True if the call was answered."""
        task = passage.caller = asyncio.ensure_future(self.effect.call.answer(self.handle, subject, 0))
        done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
        assert done, f"{where}, does not end within {PATIENCE_S:g} s"
        if passage.cancelled:
            assert task.cancelled(), f"{where}, ends with {_end(task)} instead of CancelledError"
            return False
        assert not task.cancelled(), f"{where}, ends with a CancelledError that nobody asked for"
        error = task.exception()
        if error is not None and not isinstance(error, StoreError):
            raise AssertionError(f"{where}, raised {error!r}, which is no StoreError") from error
        return error is None

    async def _check_handle(self, where: str) -> None:
        """Assert that the handle serves another call."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                await self.handle.list_runs(limit=1)
        except (TimeoutError, StoreError) as error:
            raise AssertionError(f"{where}, and its handle serves no other call: {error!r}") from error


def _statements(h: StoreHarness) -> Statements:
    assert h.statements is not None, "the case needs statements"
    return h.statements


def _end(task: asyncio.Task[str]) -> str:
    return f"{task.exception()!r}" if task.exception() is not None else f"the answer {task.result()}"
