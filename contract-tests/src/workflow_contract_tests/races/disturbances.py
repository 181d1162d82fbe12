"""Calls that are disturbed at their statements: the connection breaks, or the caller goes away."""

from __future__ import annotations

import asyncio
from typing import TypeVar

from workflow_runtime.errors import StoreError

from ..harness import StoreHarness
from ..statements import Disturbance, Passage, Statements
from .calls import Call, Subject
from .interruptions import PATIENCE_S, Effect
from .orders import Arena

__all__ = ["disturb"]

SubjectT = TypeVar("SubjectT", bound=Subject)

_MOST_STATEMENTS = 100
"""The statements of one call that are disturbed at most."""


async def disturb(arena: Arena[SubjectT], call: Call[SubjectT], disturbance: Disturbance) -> int:
    """Disturb a call at each of its statements in turn, and assert that it stays one unit.

    Args:
        arena: The place where its subjects come from.
        call: Changes something in the arena's state.
        disturbance: What happens at the statement.

    Returns:
        The number of statements at which it was disturbed.
    """
    effect = await Effect.of(arena, call)
    for number in range(1, _MOST_STATEMENTS):
        subject = await arena.make(arena.h, arena.state)
        where = f"{call} at a subject that is {arena.state}, statement {number} {disturbance}"
        with _statements(arena.h).disturbed(number, disturbance) as passage:
            answered = await _call(arena, call, subject, passage, where)
        if not passage.reached:
            return number - 1
        await effect.check_whole(subject, where, answered=answered)
        await _check_handle(arena.h, where)
    raise AssertionError(f"{call} sends more than {_MOST_STATEMENTS} statements")


def _statements(h: StoreHarness) -> Statements:
    assert h.statements is not None, "the case needs statements"
    return h.statements


async def _call(arena: Arena[SubjectT], call: Call[SubjectT], subject: SubjectT, passage: Passage, where: str) -> bool:
    """Make a call through the third handle. Return True if it was answered."""
    handle = (await arena.h.handles(3))[2]
    task = passage.caller = asyncio.ensure_future(call.answer(handle, subject, 0))
    done, _ = await asyncio.wait({task}, timeout=PATIENCE_S)
    assert done, f"{where}, does not end within {PATIENCE_S:g} s"
    if passage.reached and passage.disturbance in {"cancelled before", "cancelled after"}:
        assert task.cancelled(), f"{where}, ends with {_end(task)} instead of CancelledError"
        return False
    assert not task.cancelled(), f"{where}, ends with a CancelledError that nobody asked for"
    error = task.exception()
    if error is not None and not isinstance(error, StoreError):
        raise AssertionError(f"{where}, raised {error!r}, which is no StoreError") from error
    return error is None


def _end(task: asyncio.Task[str]) -> str:
    return f"{task.exception()!r}" if task.exception() is not None else f"the answer {task.result()}"


async def _check_handle(h: StoreHarness, where: str) -> None:
    """Assert that the handle serves another call."""
    handle = (await h.handles(3))[2]
    try:
        async with asyncio.timeout(PATIENCE_S):
            await handle.list_runs(limit=1)
    except (TimeoutError, StoreError) as error:
        raise AssertionError(f"{where}, and its handle serves no other call: {error!r}") from error
