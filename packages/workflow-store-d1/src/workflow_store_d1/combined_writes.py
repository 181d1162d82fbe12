"""Units of several callers in one transaction: one commit, and one wait for the disk, for all of them.

The first unit opens the transaction. While it is under way, others arrive; those that are there are taken in, each in a
savepoint of its own, and nothing waits for one that is not there. A unit that fails is undone alone. Nobody is
answered before the commit, not even with an error: a unit may have failed because of what another one wrote.

Whatever ends the transaction before its commit (an error that takes all of it back, a commit that fails) leaves nothing
of it. Each unit is then run again by itself, as if there were no transaction to share, and hears what that says.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from copy import copy
from threading import Event
from typing import Any, Protocol

from .jobs import Job, JobQueue, Outcome, answer

__all__ = ["CombinedWrites", "CombiningConnection", "NotCommittedError"]

MAX_UNITS = 64
MAX_BYTES = 4_000_000
"""Bytes of values that the units of a transaction bring, until no other is taken in."""
LONGEST_S = 0.1
"""The time for which a transaction takes units in: others wait for the file meanwhile, in other processes too."""


class NotCommittedError(Exception):
    """The transaction has ended, and nothing of it is there."""


class Unit(Protocol):
    """A piece of work that is done as a whole or not at all."""

    @property
    def size_bytes(self) -> int:
        """Bytes of the values that it brings."""
        ...


class CombiningConnection(Protocol):
    """A connection whose transactions take several units."""

    @property
    def in_transaction(self) -> bool:
        """True while a transaction is open."""
        ...

    def begin_units(self, unit: Any) -> Any:
        """Open a transaction and run a first unit in it; after an error none is open."""
        ...

    def join_unit(self, unit: Any) -> Any:
        """Run a further unit; after an error nothing of it is there, or the transaction has ended."""
        ...

    def commit_units(self) -> None:
        """Commit.

        Raises:
            NotCommittedError: Nothing of the transaction is there. After another error that is not sure.
        """
        ...


class CombinedWrites:
    """One such transaction.

    Args:
        connection: Where it runs.
        run_alone: Runs a call by itself.
        hurry: Set when nothing more may begin.
    """

    def __init__(self, connection: CombiningConnection, run_alone: Callable[[Job], None], hurry: Event) -> None:
        self._connection = connection
        self._run_alone = run_alone
        self._hurry = hurry
        self._outcomes: list[Outcome] = []
        self._bytes = 0

    def run(self, first: Job, queue: JobQueue) -> None:
        """Run a unit, with those that have arrived until it is done, and answer all."""
        if not self._begin(first):
            return
        if queue.has_arrived:
            self._gather(queue)
        self._commit()

    def _begin(self, job: Job) -> bool:
        if not job.begin():
            job.done = True
            return False
        try:
            result = self._connection.begin_units(job.unit)
        except BaseException as error:  # noqa: BLE001  # whatever it is, it is the caller's
            answer([Outcome(job, None, error)])
            return False
        self._outcomes.append(Outcome(job, result, None))
        return True

    def _gather(self, queue: JobQueue) -> None:
        until = time.monotonic() + LONGEST_S
        self._bytes = sum(outcome.job.unit.size_bytes for outcome in self._outcomes)
        while self._has_room(until) and (job := queue.get_joining()) is not None:
            self._join(job)

    def _has_room(self, until: float) -> bool:
        return (
            len(self._outcomes) < MAX_UNITS
            and self._bytes < MAX_BYTES
            and self._connection.in_transaction
            and not self._hurry.is_set()
            and time.monotonic() < until
        )

    def _join(self, job: Job) -> None:
        if not job.begin():
            job.done = True
            return
        try:
            result, error = self._connection.join_unit(job.unit), None
        except BaseException as problem:  # noqa: BLE001  # whatever it is, it is the caller's
            result, error = None, problem
        self._outcomes.append(Outcome(job, result, error))
        self._bytes += job.unit.size_bytes

    def _commit(self) -> None:
        try:
            self._connection.commit_units()
        except NotCommittedError:
            for outcome in self._outcomes:
                self._run_alone(outcome.job)
        except BaseException as error:  # noqa: BLE001  # it is that of all callers
            # Each gets one of its own: what becomes of an error is written on it.
            answer([Outcome(outcome.job, None, copy(error)) for outcome in self._outcomes])
        else:
            answer(self._outcomes)
