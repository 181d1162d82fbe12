"""Business writes and a run's log in one transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from sqlite3 import Connection, Row
from typing import Any

from workflow_runtime.store import (
    Appended,
    StoreCapabilities,
    TransactionEndedError,
    TransactionWork,
    TransactionWrite,
    check_transaction_write,
)

from .database import READ, WRITE, Database
from .driving import append_events, begin_write


class Transaction:
    """A transaction on the store's file, as the function of `ctx.transaction` gets it for its own statements.

    It begins with the first statement: until then everybody else can write.
    """

    def __init__(self, database: Database, run_id: str, lease_token: str, operation_id: str) -> None:
        self._database = database
        self._fence = (run_id, lease_token, operation_id)
        self.begun = False

    async def execute(self, sql: str, parameters: Sequence[object] | dict[str, object] = ()) -> list[Row]:
        """Execute one statement and return its rows. Errors are those of `sqlite3`, to be handled as usual."""
        if not self.begun:
            await self._database.call(self.begin)
        return await self._database.call_once(lambda db: db.execute(sql, parameters).fetchall())

    def begin(self, db: Connection) -> None:
        """Keep other writers out, unless this is not the run's driver any more or the same write was made meanwhile."""
        if self.begun:  # by another statement of `work` that came at the same time
            return
        db.execute(WRITE)
        try:
            _, answer = begin_write(db, *self._fence)
            if answer is not None:
                raise _MadeBefore(Appended(**answer))
        except BaseException:
            db.execute("ROLLBACK")  # `work` may go on after this error, and must not keep others out meanwhile
            raise
        self.begun = True


class _MadeBefore(Exception):  # noqa: N818  # no error: it ends the function whose write there is already
    def __init__(self, answer: Appended) -> None:
        super().__init__()
        self.answer = answer


async def append_in_transaction(
    database: Database,
    capabilities: StoreCapabilities,
    *,
    run_id: str,
    lease_token: str,
    operation_id: str,
    work: TransactionWork,
) -> Appended:
    """Let `work` write between the beginning of a unit and its append, on a connection for nothing else."""
    transaction = Transaction(database, run_id, lease_token, operation_id)

    def end(db: Connection, write: TransactionWrite) -> Appended:
        if not transaction.begun:
            transaction.begin(db)
        if not db.in_transaction:
            raise TransactionEndedError(run_id)
        facts: dict[str, Any] = {field.name: getattr(write, field.name) for field in fields(write)}
        answer = append_events(db, run_id=run_id, lease_token=lease_token, operation_id=operation_id, **facts)
        db.execute("COMMIT")
        return answer

    try:
        _, before = await database.run(READ, lambda db: begin_write(db, run_id, lease_token, operation_id))
        if before is not None:
            return Appended(**before)
        write = await work(transaction)
        check_transaction_write(write, capabilities)
        return await database.call(lambda db: end(db, write))
    except _MadeBefore as made:
        return made.answer
    finally:
        database.close_soon()
