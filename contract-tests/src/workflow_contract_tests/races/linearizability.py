"""Linearizability of the history of one run: is there an order of its calls that explains all answers?

The search is that of Wing and Gong. A call may come next if no other that is left had ended before it began. Where two
orders of the same calls lead to the same state, only one of them is followed further.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from .run_model import NEW_RUN, Answer, RunState, answer_of

__all__ = ["Operation", "SearchTooWideError", "unexplained"]

_MAX_PLACES = 100_000
"""Bounds the search. Some ten workers that never rest come nowhere near."""
_SHOWN = 6


class SearchTooWideError(Exception):
    """A history with so many calls at once that the search for an order was given up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One call of a history, from its beginning to its answer."""

    worker: str
    verb: str
    arguments: Mapping[str, Any]
    answer: Answer
    began: int
    ended: int

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value}" for name, value in self.arguments.items())
        return f"{self.worker}: {self.verb}({arguments}) -> {self.answer}"


_Place: TypeAlias = tuple[int, RunState]
"""A place in the search: the calls that are done, as bits, and the state that they have led to."""


def unexplained(history: Sequence[Operation]) -> str | None:
    """Return the end of a history that no order explains, in words; `None` when an order explains all of it."""
    states = {NEW_RUN}
    for part in _parts(sorted(history, key=lambda operation: operation.began)):
        search = _Search(part)
        states = search.run(states)
        if not states:
            return search.complaint()
    return None


def _parts(history: Sequence[Operation]) -> Iterator[list[Operation]]:
    """Cut a history wherever no call was under way: no order leads across."""
    part: list[Operation] = []
    for operation in history:
        if part and max(earlier.ended for earlier in part) < operation.began:
            yield part
            part = []
        part.append(operation)
    if part:
        yield part


class _Search:
    """The search for the orders of calls that explain their answers."""

    def __init__(self, calls: Sequence[Operation]) -> None:
        self._calls = calls
        self._before: dict[_Place, tuple[_Place, Operation] | None] = {}
        """Every place that was reached, with the one before it and the call in between."""

    def run(self, states: set[RunState]) -> set[RunState]:
        """Return the states that the calls can have led to from these."""
        self._before = {(0, state): None for state in states}
        waiting = list(self._before)
        while waiting:
            place = waiting.pop()
            steps = (self._step(place, number) for number in self._next(place[0]))
            waiting.extend(reached for reached in steps if reached is not None)
            if len(self._before) > _MAX_PLACES:
                raise SearchTooWideError(f"{len(self._calls)} calls without a break have too many orders")
        everything = (1 << len(self._calls)) - 1
        return {state for done, state in self._before if done == everything}

    def _next(self, done: int) -> Iterator[int]:
        """Yield the calls that may come next: none of those left had ended before they began."""
        first_left = (~done & done + 1).bit_length() - 1
        first_end: int | None = None
        for number in range(first_left, len(self._calls)):
            if done >> number & 1:
                continue
            call = self._calls[number]
            if first_end is not None and call.began > first_end:
                return  # those behind began even later
            first_end = call.ended if first_end is None else min(first_end, call.ended)
            yield number

    def _step(self, place: _Place, number: int) -> _Place | None:
        """Make a call; `None` when its answer would be another, or the search was here before."""
        call = self._calls[number]
        state, answer = answer_of(place[1], call.verb, call.arguments)
        reached = (place[0] | 1 << number, state)
        if answer != call.answer or reached in self._before:
            return None
        self._before[reached] = (place, call)
        return reached

    def complaint(self) -> str:
        """Return the longest order that explains something, and what cannot come after it."""
        farthest = max(self._before, key=lambda place: place[0].bit_count())
        left = [call for number, call in enumerate(self._calls) if not farthest[0] >> number & 1]
        order: list[Operation] = []
        place = farthest
        while (step := self._before[place]) is not None:
            place, call = step
            order.insert(0, call)
        return "\n".join(
            [
                *(f"  {call}" for call in order[-_SHOWN:]),
                f"  leave {farthest[1]}, and after them none of these can be the next:",
                *(f"  {call}" for call in left[:_SHOWN]),
            ]
        )
