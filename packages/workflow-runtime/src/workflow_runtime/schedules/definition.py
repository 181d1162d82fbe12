"""A schedule as an application declares it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, get_args

from ..clock import to_ms
from ..engine.definition import Workflow
from ..errors import InvalidArgumentError
from ..ids import check_id, plain_text
from ..store import DEFAULT_QUEUE, OverlapPolicy
from .cron import Cron
from .every import Every, whole_ms

__all__ = ["MAX_MISSED", "MissedPolicy", "Schedule"]

if TYPE_CHECKING:
    import typing_extensions  # every type checker knows it; at run time there is no default before Python 3.13

    InputT = typing_extensions.TypeVar("InputT", default=Any)
else:
    InputT = TypeVar("InputT")

MissedPolicy = Literal["skip", "one", "all"]
"""Policies for ticks that nobody fired in time, because no worker was there."""

MAX_MISSED = 1_000
"""The greatest `missed_limit`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule(Generic[InputT]):
    """A plan that starts a run of a workflow again and again. Give it to `WorkflowRuntime(schedules=[...])`.

    Raises:
        InvalidArgumentError: A value that can never work; names it.
    """

    id: str
    """Id of the schedule in the store; it stays."""
    workflow: Workflow[InputT, Any] | str
    """Workflow that each tick starts, in its current version."""
    when: Cron | Every
    """The moments at which it fires."""
    input: InputT | None = None
    """Input of each run: any value that the codec carries."""
    overlap: OverlapPolicy = "skip"
    """Policy for a tick that comes while the run of an earlier tick has not ended."""
    missed: MissedPolicy = "skip"
    """Policy for ticks that nobody fired in time: none, one or each of them is fired late."""
    missed_limit: int = 100
    """With `all`: only so many of them, the newest; at most 1,000."""
    grace: timedelta = timedelta(minutes=1)
    """A tick that is later than this is missed."""
    jitter: timedelta = timedelta(0)
    """Each run starts up to so much later; the same schedule and tick always give the same delay."""
    starts_at: datetime | None = None
    """No tick before (an aware datetime)."""
    ends_at: datetime | None = None
    """No tick at or after (an aware datetime)."""
    queue: str = DEFAULT_QUEUE
    """Queue in which its runs wait."""
    priority: int = 0
    """Priority of its runs; greater is sooner."""
    paused: bool = False
    """True if it is paused when it is created. Later only `pause` and `resume` decide."""

    def __post_init__(self) -> None:
        for name in ("id", "queue"):
            object.__setattr__(self, name, check_id(name, getattr(self, name)))
        if isinstance(self.workflow, str):
            object.__setattr__(self, "workflow", check_id("workflow", self.workflow))
        if not isinstance(self.when, Cron | Every):
            raise InvalidArgumentError("when", "must be a Cron or an Every")
        object.__setattr__(self, "overlap", _choice("overlap", self.overlap, OverlapPolicy))
        object.__setattr__(self, "missed", _choice("missed", self.missed, MissedPolicy))
        if type(self.missed_limit) is not int or not 1 <= self.missed_limit <= MAX_MISSED:
            raise InvalidArgumentError("missed_limit", f"must be from 1 to {MAX_MISSED}, not {self.missed_limit}")
        whole_ms("grace", self.grace)
        whole_ms("jitter", self.jitter)
        starts_at_ms = None if self.starts_at is None else to_ms("starts_at", self.starts_at)
        ends_at_ms = None if self.ends_at is None else to_ms("ends_at", self.ends_at)
        if ends_at_ms is not None and starts_at_ms is not None and ends_at_ms <= starts_at_ms:
            raise InvalidArgumentError("ends_at", "must be after starts_at")

    @property
    def workflow_id(self) -> str:
        """The id of the workflow."""
        return self.workflow if isinstance(self.workflow, str) else self.workflow.id


def _choice(argument: str, value: object, choices: Any) -> str:
    if value not in get_args(choices):
        raise InvalidArgumentError(argument, f"must be one of {', '.join(get_args(choices))}, not {value!r}")
    return plain_text(argument, value)
