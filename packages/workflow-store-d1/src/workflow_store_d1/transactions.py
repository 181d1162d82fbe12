"""A business write and its record in one batch; on a local file also in a transaction that can be read from.

A batch is all or none, but a statement that finds nothing to do is no error, and the business's statements know of no
lease. So the batch begins with a guard, which raises an error where the fence does not hold.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from workflow_runtime.store import (
    Appended,
    ConfigurationError,
    StoreError,
    TransactionWork,
    TransactionWrite,
    check_transaction_write,
    checked,
)
from workflow_store_sql import Fence

from .database import (
    D1Database,
    D1DatabaseError,
    D1PreparedStatement,
    D1Result,
    D1Value,
    InteractiveD1Database,
    InteractiveTransaction,
    Row,
)
from .event_log import add_append, appended
from .fenced_write import FencedWrite, Outcome
from .limits import check_statement
from .metering import MeteredBatch
from .statement_sender import store_error
from .store_role import StoreRole

__all__ = ["D1Transaction", "SQLiteTransaction", "TransactionalAppends"]


class D1Transaction:
    """The argument of a function in `ctx.transaction`: it collects statements, which go out with the step's record."""

    def __init__(self, database: D1Database) -> None:
        self._database = database
        self._statements: list[D1PreparedStatement] = []
        self._ended = False

    def add(self, sql: str, *values: D1Value) -> None:
        """Add a statement, with values for `?1`, `?2` and so on. It runs when the function has returned.

        Raises:
            D1DatabaseError: The text or the values are beyond D1's limits.
            ConfigurationError: The function has returned.
        """
        self._statements.append(self._statement(sql, values))

    def take(self) -> list[D1PreparedStatement]:
        """Return what was added and has not run; for the store."""
        statements, self._statements = self._statements, []
        return statements

    def end(self) -> None:
        """Take nothing more; for the store."""
        self._ended = True

    async def commit(self, statements: Sequence[D1PreparedStatement]) -> Sequence[D1Result]:
        """Run the last statements and commit everything; for the store."""
        return await self._database.batch(statements)

    def _statement(self, sql: str, values: tuple[D1Value, ...]) -> D1PreparedStatement:
        if self._ended:
            raise ConfigurationError("the function of the transaction has returned: it is too late for a statement")
        check_statement(sql)
        return self._database.prepare(sql).bind(*values)


class SQLiteTransaction(D1Transaction):
    """The argument of such a function on a local file: statements may also run at once, and be read from.

    The first one that does locks the file for all other writers until the transaction ends.
    """

    def __init__(self, database: D1Database, transaction: InteractiveTransaction) -> None:
        super().__init__(database)
        self._transaction = transaction

    async def execute(self, sql: str, *values: D1Value) -> int:
        """Run a statement now, behind those that were added before; give the number of rows that it changed.

        Raises:
            D1DatabaseError: The database refused it.
            ConfigurationError: The function has returned.
        """
        return int((await self._run(sql, values)).meta["changes"])

    async def fetch(self, sql: str, *values: D1Value) -> Sequence[Row]:
        """Run a statement now, behind those that were added before; give its rows.

        Raises:
            D1DatabaseError: The database refused it.
            ConfigurationError: The function has returned.
        """
        return (await self._run(sql, values)).results

    async def commit(self, statements: Sequence[D1PreparedStatement]) -> Sequence[D1Result]:
        """Run the last statements and commit everything; for the store."""
        if self._transaction.begun:
            return await self._transaction.commit(statements)
        return await super().commit(statements)

    async def _run(self, sql: str, values: tuple[D1Value, ...]) -> D1Result:
        statement = self._statement(sql, values)
        return (await MeteredBatch([*self.take(), statement], self._transaction.run).send())[-1]


class TransactionalAppends(StoreRole):
    """The role `SupportsTransactions`."""

    @checked
    async def append_in_transaction(
        self, *, run_id: str, lease_token: str, operation_id: str, work: TransactionWork
    ) -> Appended:
        def fenced(expected_next_index: int | None) -> FencedWrite:
            fence = Fence("append_in_transaction", run_id, lease_token, operation_id, expected_next_index)
            return FencedWrite(self._sender, fence)

        done = await fenced(None).look()
        if done.repeated is not None:
            return appended(done)
        async with self._transaction() as tx:
            write = await _run(work, tx)
            check_transaction_write(write, self.capabilities)
            whole = fenced(write.expected_next_index)
            _put_together(whole, tx, write)
            result = await _try(whole, tx)
        # The file is free again, so that the head can be read.
        outcome = result if isinstance(result, Outcome) else await _explain(whole, result)
        return appended(outcome, write.expected_next_index + len(write.events), write.now_ms + write.lease_ms)

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[D1Transaction]:
        database = self._sender.database
        if not isinstance(database, InteractiveD1Database):
            tx = D1Transaction(database)
            yield tx
            return
        async with database.interactive() as transaction:
            yield SQLiteTransaction(database, transaction)


async def _run(work: TransactionWork, tx: D1Transaction) -> TransactionWrite:
    try:
        return await work(tx)
    except D1DatabaseError as error:
        if error.unavailable:
            raise store_error(error) from error
        raise
    finally:
        tx.end()


def _put_together(whole: FencedWrite, tx: D1Transaction, write: TransactionWrite) -> None:
    whole.guard()
    whole.add_foreign(tx.take())
    add_append(
        whole, write.events, write.taken_inbox, write.set_timers, write.removed_timers, write.now_ms, write.lease_ms
    )


async def _try(whole: FencedWrite, tx: D1Transaction) -> Outcome | StoreError:
    try:
        return await whole.commit(tx.commit)
    except StoreError as error:
        return error


async def _explain(whole: FencedWrite, refusal: StoreError) -> Outcome:
    """Return the answer of a repeat, or raise the error of the statement that refused."""
    if refusal.retryable:
        raise refusal
    done = await whole.look()
    if done.repeated is not None:
        return done
    # The fence holds, and a head never returns to an earlier state.
    raise refusal.__cause__ or refusal
