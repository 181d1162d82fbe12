"""A business write and its record in one transaction, on one connection.

Errors of the function itself pass as they are: they are its caller's business. What goes wrong around it is said in
the contract's words.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import asyncpg
from workflow_runtime.store import (
    Appended,
    ConfigurationError,
    StoreCapabilities,
    StoreError,
    StoreUnavailableError,
    TransactionEndedError,
    TransactionWork,
    TransactionWrite,
    check_transaction_write,
    checked,
)
from workflow_store_sql import Fence

from .event_log import append, appended
from .failures import SERIALIZATION_STATES, database_errors
from .fenced_write import FencedWrite, Outcome
from .lent_connection import LentConnection
from .statement_sender import MAX_TRIES, wait_a_little
from .store_role import StoreRole

__all__ = ["TransactionalAppends"]

_BUSINESS_CLASSES = ("22", "23", "44", "P0")
"""Errors of a COMMIT that come from the business's own rules: deferred constraints and triggers."""

_LOST_CLASSES = ("08", "57P")
_FAILED_TRANSACTION = "25P02"
_CHANGED_SESSION = frozenset({"25006", "3F000", "42501", "42P01"})
"""The head could be written before the function ran: the function took that away from the rest of its transaction."""
_HELD_TOO_LONG = frozenset({"25P03", "25P04"})
"""The server closed the connection because the function's statement took its time. That is no failure of the server."""


class TransactionalAppends(StoreRole):
    """The role `SupportsTransactions`."""

    @checked
    async def append_in_transaction(
        self, *, run_id: str, lease_token: str, operation_id: str, work: TransactionWork
    ) -> Appended:
        async with self._sender.held() as held:
            write = FencedWrite(held, Fence("append_in_transaction", run_id, lease_token, operation_id))
            transaction = _Transaction(held.connection, write, work, self.capabilities)
            for tries in range(1, MAX_TRIES + 1):
                try:
                    return appended(await transaction.commit())
                except Exception as error:
                    if tries == MAX_TRIES or not _asks_for_repeat(error):
                        raise
                await wait_a_little(tries)
        raise AssertionError("the last try returns or raises")


@dataclass(frozen=True, slots=True)
class _Transaction:
    """A business write and its record, which are committed together."""

    connection: LentConnection
    write: FencedWrite
    work: TransactionWork
    capabilities: StoreCapabilities

    async def commit(self) -> Outcome:
        # This waits for an earlier try whose connection is gone while its COMMIT is still on the way.
        done = await self.write.verdict("fenced_write.settled")
        if done is not None:
            return done
        with database_errors():
            await self.connection.begin()
        try:
            outcome = await self._append(await self._work())
            if outcome.repeated is None:
                await _commit(self.connection)
            else:
                # A concurrent try committed it. Its answer counts once that commit is as safe as our own.
                await self.connection.roll_back()
                outcome = await self.write.verdict("fenced_write.settled") or outcome
        except asyncio.CancelledError:
            raise  # a cancelled caller does not wait: the connection is cleaned up afterwards
        except BaseException:
            await self.connection.roll_back()
            raise
        return outcome

    async def _work(self) -> TransactionWrite:
        try:
            write = await self.work(self.connection.raw)
        except Exception as error:
            if self._is_lost(error):
                raise StoreUnavailableError("the connection was lost inside a transaction") from error
            raise
        if self._is_closed():
            raise StoreUnavailableError("the connection was lost inside a transaction")
        if not self.connection.raw.is_in_transaction():
            raise TransactionEndedError(self.write.fence.run_id)
        check_transaction_write(write, self.capabilities)
        return write

    def _is_lost(self, error: Exception) -> bool:
        # asyncpg says 08003 when the server ended the connection in a statement; the reason is the cause.
        if _states(error) & _HELD_TOO_LONG:
            return False
        state = getattr(error, "sqlstate", None) or ""
        return state.startswith(_LOST_CLASSES) or self._is_closed()

    def _is_closed(self) -> bool:
        try:
            return bool(self.connection.raw.is_closed())
        except asyncpg.InterfaceError:
            return True  # it broke while nothing was sent, and the pool has taken it back

    async def _append(self, write: TransactionWrite) -> Outcome:
        fence = replace(self.write.fence, expected_next_index=write.expected_next_index)
        try:
            return await append(
                FencedWrite(self.write.sender, fence),
                write.events,
                write.taken_inbox,
                write.set_timers,
                write.removed_timers,
                write.now_ms,
                write.lease_ms,
            )
        except StoreError as error:
            problem = self._left_behind(error.__cause__)
            if problem is None:
                raise
            raise ConfigurationError(
                f"run {self.write.fence.run_id!r}: the function of a transaction {problem}"
            ) from error

    def _left_behind(self, cause: BaseException | None) -> str | None:
        """Return what the function left in the way of its record."""
        state = getattr(cause, "sqlstate", None)
        if state in _CHANGED_SESSION:
            return (
                f"changed its search_path, its role or transaction_read_only, and not back ({cause}); a store that is "
                "given its `schema` does without search_path"
            )
        if state == _FAILED_TRANSACTION:
            return (
                "went on after a statement had failed, which no transaction can; let the error pass, or put the "
                "statement into a savepoint: `async with tx.transaction()`"
            )
        if isinstance(cause, asyncpg.InterfaceError) and not self._is_closed():
            return f"left a statement running on its connection ({cause})"
        return None


async def _commit(connection: LentConnection) -> None:
    try:
        with database_errors():
            await connection.commit()
    except StoreError as error:
        cause = error.__cause__
        if isinstance(cause, asyncpg.PostgresError) and (cause.sqlstate or "").startswith(_BUSINESS_CLASSES):
            raise cause from None
        raise


def _asks_for_repeat(error: BaseException) -> bool:
    """Return True if the server rolled back because of another transaction, however the function put it."""
    return bool(_states(error) & SERIALIZATION_STATES)


def _states(error: BaseException | None) -> set[str]:
    """Return the server's codes, of the error and of its causes."""
    states = set()
    while error is not None:
        states.add(getattr(error, "sqlstate", None) or "")
        error = error.__cause__
    return states
