"""Steps that commit together with their record: who may write meanwhile, and what is known afterwards.

While such a step runs, the driver writes nothing: with a pool of one connection the step would hold what the driver
waits for. When its function is done, the step's own task closes the gate: the driver decides nothing more, and what it
had decided so far goes into the step's transaction, before the step's record. So the order of the log is the order in
which events took effect. The record itself takes effect after the commit, as the first thing behind the gate.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ..errors import QueryLimitReachedError, StoreError, StoreUnavailableError
from ..payloads import JsonText
from ..store import TransactionWrite
from .history import EventKind, Recorded, new_event
from .log_draft import LogDraft
from .machine import Machine
from .operations import Operation
from .run_writer import RunWriter

__all__ = ["StepTransactions"]

Attempt = Callable[[Any], Awaitable[JsonText]]


class _NotWantedError(Exception):
    """Raised to roll back a transaction whose record nobody would read."""


class StepTransactions:
    """The transactional steps of one drive. At most one of them can still commit."""

    def __init__(self, *, writer: RunWriter, machine: Machine, draft: LogDraft) -> None:
        self.broken: Exception | None = None
        """Set when the store could not say whether a transaction was committed, or refused to go on."""
        self._writer = writer
        self._machine = machine
        self._draft = draft
        self._gate = asyncio.Event()
        self._gate.set()
        self._settling = False
        self._settled = asyncio.Event()
        """Set when a settling is over that somebody waits for."""
        self._waiting = 0
        """Number of transactions that wait for it."""
        self._committing: _Commit | None = None
        """Operation that has closed the gate. One that was given up, and still cleans up, must not open it for another.
        """
        self._closed = False
        self._committed: Recorded | None = None

    @property
    def committing(self) -> bool:
        """True if a transaction is being committed: nothing may be decided, and its task must not be cancelled."""
        return self._committing is not None

    async def committed(self) -> None:
        """Wait until no transaction is being committed."""
        while self.committing:
            await self._gate.wait()

    def hold_back(self) -> None:
        """Keep transactions from being committed until `let_commit`; none may be in the middle of it.

        The handler may be in the middle of its turn: what it gives up or returns there is not known yet.
        """
        self._settling = True

    def let_commit(self) -> None:
        """Allow commits again."""
        self._settling = False
        if self._waiting:
            self._settled.set()

    async def wait_for_settling(self) -> None:
        """Wait until a transaction may be committed."""
        self._waiting += 1
        try:
            while self._settling:
                self._settled.clear()
                await self._settled.wait()
        finally:
            self._waiting -= 1

    def take_committed(self) -> Recorded | None:
        """Take the record that is in the log and has not taken effect yet."""
        committed, self._committed = self._committed, None
        return committed

    def close(self) -> None:
        """Refuse the commit of every transaction that is not committing already."""
        self._closed = True

    async def run(self, operation: Operation, attempt: Attempt) -> None:
        """Run one attempt and commit it. Without an error it is committed, not wanted any more, or `broken` says why.

        Raises:
            Exception: What the function raised, or what the database had against its writes.
            QueryLimitReachedError: It was not sent.
        """
        commit = _Commit(self, operation, attempt)
        answered = False
        try:
            await self._writer.transact(commit.work, is_own=commit.is_own)
            answered = True
            await self._check_recorded(commit)
        except _NotWantedError:
            return
        except StoreError as error:
            if commit.is_own(error) or (isinstance(error, QueryLimitReachedError) and not answered):
                raise
            self.broken = error
        else:
            self._draft.written()
            self._committed = commit.recorded
        finally:
            self._open_gate(commit)

    async def _check_recorded(self, commit: _Commit) -> None:
        """Make sure that the last result is the one in the log, where an earlier one may have come there after all."""
        if commit.handed_over > 1:
            first, recorded = commit.first_index, commit.recorded
            written = await self._writer.read_from(first)
            if len(written) != commit.length or written[-1].payload != (recorded and recorded.payload):
                raise StoreUnavailableError("an earlier try of a transaction was committed late")

    def _open_gate(self, commit: _Commit) -> None:
        if self._committing is commit:
            self._committing = None
            self._gate.set()

    def _close_gate(self, commit: _Commit, operation: Operation, text: JsonText) -> tuple[Recorded, TransactionWrite]:
        """Stop the driver from deciding, and return what is to be written."""
        if self._closed or self._writer.lease.lost or not operation.pending or self._machine.outcome is not None:
            raise _NotWantedError
        self._committing = commit
        self._gate.clear()
        recorded = Recorded(EventKind.STEP_COMPLETED, operation.step_id, text)
        return recorded, self._writer.transaction_write(self._draft.write(new_event(recorded)))


class _Commit:
    """One attempt, which the store may run several times until it is committed."""

    def __init__(self, transactions: StepTransactions, operation: Operation, attempt: Attempt) -> None:
        self.recorded: Recorded | None = None
        self.handed_over = 0
        """Number of times that the function came to its end and the store got what to write."""
        self.first_index = 0
        self.length = 0
        self._transactions = transactions
        self._operation = operation
        self._attempt = attempt
        self._failure: BaseException | None = None

    def is_own(self, error: BaseException) -> bool:
        """Return True if an error came out of the function, and not out of the store."""
        return error is self._failure

    async def work(self, tx: Any) -> TransactionWrite:
        """Run the function with what the store gives it, and return what the log gets."""
        self._transactions._open_gate(self)  # noqa: SLF001  # one module, one thing
        try:
            text = await self._attempt(tx)
            await self._transactions.wait_for_settling()
            self.recorded, write = self._transactions._close_gate(self, self._operation, text)  # noqa: SLF001
        except BaseException as error:
            self._failure = error
            raise
        self.handed_over += 1
        self.first_index, self.length = write.expected_next_index, len(write.events)
        return write
