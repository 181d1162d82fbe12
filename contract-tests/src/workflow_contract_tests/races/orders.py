"""Calls at once, judged by their orders.

Each verb is one unit, so what calls at once answer and leave behind is what they answer and leave behind one after
the other, in one of their orders. The orders are tried first, on subjects of their own in the same store: how it
answers to calls that do not meet is the business of the other cases.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections.abc import Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from workflow_runtime.store import WorkflowExecutionStore

from ..harness import StoreHarness
from ..tasks import all_of
from .calls import Call, Subject

__all__ = ["Allowed", "Arena", "Outcome", "apart", "at_once", "race"]

SubjectT = TypeVar("SubjectT", bound=Subject)
R = TypeVar("R")

PASSED_OVER = "passed over"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The answers of calls, each in its place, and what they left behind."""

    answers: tuple[str, ...]
    left: str

    def without(self, callers: Collection[int]) -> Outcome:
        """Return the outcome as if these calls had not been made."""
        answers = (PASSED_OVER if n in callers else answer for n, answer in enumerate(self.answers))
        return Outcome(answers=tuple(answers), left=self.left)

    def __str__(self) -> str:
        answers = [f"    caller {caller}: {answer}" for caller, answer in enumerate(self.answers)]
        return "\n".join([*answers, f"    left: {self.left}"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Arena(Generic[SubjectT]):
    """The place of races: makes subjects in one state, and looks at what calls have made of them."""

    h: StoreHarness
    state: str
    make: Callable[[StoreHarness, str], Coroutine[Any, Any, SubjectT]] = field(repr=False)
    look: Callable[[StoreHarness, SubjectT, Sequence[Call[SubjectT]]], Coroutine[Any, Any, str]] = field(repr=False)
    """Returns everything that a store shows of a subject after some calls, as text. It may change the subject."""
    glance: Callable[[StoreHarness, SubjectT], Coroutine[Any, Any, str]] = field(repr=False)
    """Returns what a store shows of a subject at the moment, as text, and leaves it as it is."""

    async def in_order(self, calls: Sequence[Call[SubjectT]], order: Sequence[int]) -> Outcome:
        """Make some of the calls one after the other, on a new subject. Those left out are passed over."""
        subject = await self.make(self.h, self.state)
        handles = await self.h.handles(2)
        answers = [PASSED_OVER] * len(calls)
        for caller in order:
            answers[caller] = await calls[caller].answer(handles[caller % 2], subject, caller)
        return Outcome(answers=tuple(answers), left=await self.look(self.h, subject, calls))

    async def at_once(self, calls: Sequence[Call[SubjectT]], chosen: random.Random | None, first: int) -> Outcome:
        """Make the calls at once, on a new subject, each through a handle of its own."""
        subject = await self.make(self.h, self.state)
        handles = await self.h.handles(max(2, len(calls)))
        coming = [call.answer(handles[n], subject, n) for n, call in enumerate(calls)]
        answers = await at_once(coming, chosen, first)
        return Outcome(answers=tuple(answers), left=await self.look(self.h, subject, calls))


async def at_once(calls: Sequence[Coroutine[Any, Any, R]], chosen: random.Random | None, first: int = 0) -> list[R]:
    """Run calls at once, beginning with the first of them, and return their answers.

    Args:
        calls: Each is begun, or closed if another fails before.
        chosen: Delays each call for a short, random time; `None` begins all without a delay.
        first: The call that begins.
    """

    async def after_a_while(call: Coroutine[Any, Any, R]) -> R:
        if chosen is not None:
            await asyncio.sleep(chosen.choice([0, 0, chosen.random() * 0.002]))
            for _ in range(chosen.randrange(4)):
                await asyncio.sleep(0)
        return await call

    places = [(first + n) % len(calls) for n in range(len(calls))]
    try:
        answers = dict(zip(places, await all_of(*(after_a_while(calls[n]) for n in places)), strict=True))
    finally:
        for call in calls:
            call.close()  # Python warns of one that has not begun when another fails
    return [answers[n] for n in range(len(calls))]


async def race(arena: Arena[SubjectT], calls: Sequence[Call[SubjectT]], *, rounds: int, chosen: random.Random) -> None:
    """Assert that calls at once answer and leave behind what they do in one of their orders.

    Args:
        arena: Where their subjects come from.
        calls: Two or more.
        rounds: How often they meet, each time on a new subject.
        chosen: Decides on delays, but for the first rounds: in these each call begins once, and nobody waits.
    """
    allowed = Allowed(arena, calls)
    await allowed.try_orders()
    for number in range(rounds):
        delays = None if number < len(calls) else chosen
        found = await arena.at_once(calls, delays, number % len(calls))
        await allowed.check(found)


async def apart(
    made: Sequence[tuple[Call[SubjectT], Arena[SubjectT]]],
    handles: Sequence[WorkflowExecutionStore],
    chosen: random.Random,
) -> None:
    """Assert that calls at once, each to a subject of its own, answer and leave behind what they do alone."""
    alone: dict[tuple[str, str], Outcome] = {}
    for call, arena in made:
        if (call.name, arena.state) not in alone:
            alone[call.name, arena.state] = await arena.in_order([call], [0])
    subjects = [await arena.make(arena.h, arena.state) for _, arena in made]
    coming = [
        call.answer(handles[n % len(handles)], subject, 0)
        for n, ((call, _), subject) in enumerate(zip(made, subjects, strict=True))
    ]
    answers = await at_once(coming, chosen)
    for (call, arena), subject, answer in zip(made, subjects, answers, strict=True):
        found = Outcome(answers=(answer,), left=await arena.look(arena.h, subject, [call]))
        expected = alone[call.name, arena.state]
        assert found == expected, (
            f"{call.name} on a run that is {arena.state} does, while other runs are written,\n{found}\n"
            f"  and alone\n{expected}"
        )


class Allowed(Generic[SubjectT]):
    """The outcomes that calls may have: those of their orders."""

    def __init__(self, arena: Arena[SubjectT], calls: Sequence[Call[SubjectT]]) -> None:
        self._arena = arena
        self._calls = calls
        self._outcomes: dict[Outcome, tuple[int, ...]] = {}

    async def try_orders(self, *, without: Collection[int] = ()) -> None:
        """Make the calls in each order."""
        callers = [caller for caller in range(len(self._calls)) if caller not in without]
        for order in itertools.permutations(callers):
            self._outcomes[await self._arena.in_order(self._calls, order)] = order

    async def check(self, found: Outcome) -> None:
        """Assert that an outcome is allowed."""
        if found in self._outcomes:
            return
        passing = {caller for caller, call in enumerate(self._calls) if _found_nothing(call, found.answers[caller])}
        if passing:
            await self.try_orders(without=passing)
        assert found.without(passing) in self._outcomes, self._complaint(found)

    def _complaint(self, found: Outcome) -> str:
        names = " and ".join(call.name for call in self._calls)
        orders = [f"  in the order {order}:\n{outcome}" for outcome, order in self._outcomes.items()]
        return "\n".join(
            [f"{names} at once, {self._arena.state}, do what they do in no order", f"  at once:\n{found}", *orders]
        )


def _found_nothing(call: Call[SubjectT], answer: str) -> bool:
    return call.nothing is not None and re.fullmatch(call.nothing, answer) is not None
