"""Calls of the contract that can meet: a verb, the subject that it is about, and where it applies.

A subject is a run or a schedule with all that a call needs to know of it. Calls get nothing else, so a child process
can make them as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from workflow_runtime.errors import LeaseLostError, LogConflictError
from workflow_runtime.store import WorkflowExecutionStore

__all__ = ["Call", "Subject", "show"]


class Subject(Protocol):
    """The run or the schedule that calls are about."""

    @property
    def id(self) -> str:
        """Its id, which no other subject's id begins with."""
        ...


SubjectT = TypeVar("SubjectT", bound=Subject)
_VARYING = re.compile(r"(?<=token=)'[^']*'|(?<=store_clock_ms=)\d+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Call(Generic[SubjectT]):
    """One verb with arguments that work, as a race makes it."""

    name: str
    """Name of the verb, and what is special about the arguments."""
    verb: str
    clauses: tuple[str, ...]
    act: Callable[[WorkflowExecutionStore, SubjectT, int], Coroutine[Any, Any, Any]] = field(repr=False)
    """Makes the call. The number is the caller's: two callers of one verb differ in their owners and operations."""
    next_states: Mapping[str, str] = field(repr=False)
    """The states of a subject in which the call changes something, and the state that each of them becomes."""
    fenced: bool = False
    """It acts only while a lease or a revision is the one that its caller knows."""
    takes: bool = False
    """It ends such a lease or revision, whatever state comes of it."""
    nothing: str | None = None
    """Pattern of the answer that nothing was found. Only of a call that may pass over what another is writing."""

    def __str__(self) -> str:
        return self.name

    def acts_after(self, other: Call[SubjectT], state: str) -> bool:
        """Return True if this call changes something at a subject to which another call came first."""
        after = other.next_states.get(state, state)
        return after in self.next_states and not (self.fenced and other.takes)

    async def answer(self, store: WorkflowExecutionStore, subject: SubjectT, caller: int) -> str:
        """Make the call and return its answer as text. A lost lease or a conflict is an answer."""
        try:
            return show(await self.act(store, subject, caller), subject)
        except LeaseLostError:
            return "LeaseLostError"
        except LogConflictError as conflict:
            return f"LogConflictError({conflict.expected_next_index}, {conflict.actual_next_index})"


def show(value: object, subject: Subject) -> str:
    """Return a value as text, without what differs between two subjects that were treated alike."""
    plain: object = dict(value) if isinstance(value, Mapping) else value
    return _VARYING.sub("*", repr(plain)).replace(subject.id, "ID")
