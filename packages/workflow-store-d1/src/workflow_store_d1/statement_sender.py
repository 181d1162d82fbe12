"""Sends named SQL to a database. The one place where a database's errors become the contract's.

The answer to a batch may be lost on its way: whether the batch was done is unknown then. A sender repeats it, because
the store recognises it. What the second try answers when the first one was done:

- reads: what is there.
- a driver's writes (`append_events`, `append_in_transaction`, `schedule_timer`, `release_run_lease`, `mark_run_paused`,
  `mark_run_finished`, `mark_run_errored`): the first answer, by the operation id in the head. `LeaseLostError` if the
  lease was gone and somebody else has written since.
- `heartbeat_run_lease`, `heartbeat_run_leases`: the lease as it is; it does not get shorter.
- `create_run`, `create_runs`, `fork_run`: the first answer, by the operation id; `existing` if a driver has written
  since.
- claims: what the first try took, by the lease token, which each call makes anew; nothing more is taken then. Runs that
  the first try parked as dead are not named again.
- `mark_schedule_bucket_started`: the first answer, by tick and operation id.
- `deliver_signal`, `deliver_signals`, `deliver_approval`, `deliver_retry`, `cancel_run`, `cancel_runs`: `duplicate` or
  `already-decided`, by the id of the delivery; with `only_if_waiting` too.
- `terminate_run`, `terminate_runs`: `finished`, as `aborted`.
- `upsert_schedule` without `expected_revision`: `unchanged`.
- migrations: the table is there already, which sends `ensure_schema` to look again.

Not repeated, because a second try would do more or answer wrongly: `upsert_schedule` with `expected_revision` (it would
conflict with itself), `request_schedule_buckets` (a tick that was settled meanwhile would fire again), `requeue_run`
and `retry_run`, also of many (a run that ended again would be brought back again), `delete_run` and `delete_schedule`
(`not-found`, or one that was created again), `prune_runs` (another batch). These raise `StoreUnavailableError`, which
says that the outcome is unknown.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence

from workflow_migrations import TableNames
from workflow_runtime.store import (
    ConfigurationError,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreOperationError,
    StoreUnavailableError,
    new_id,
)
from workflow_store_sql import load_statements

from .database import D1Database, D1DatabaseError, D1PreparedStatement, D1Value, Row
from .metering import MeteredBatch, SendBatch
from .retries import Retries, is_unknown

__all__ = ["REMEDY", "SendBatch", "StatementSender", "json_list", "store_error"]

REMEDY = (
    "run `workflow-store-d1 migrate` or `await store.ensure_schema()`, or apply the .sql files in the package's folder "
    "`migrations`"
)


class StatementSender:
    """A database, the names of its tables, and a source of lease tokens.

    Args:
        database: Where the statements go.
        tables: The names to use.
        new_token: Makes a lease token that was never used before.
        retries: How a batch is repeated whose outcome is unknown.
    """

    def __init__(
        self,
        database: D1Database,
        tables: TableNames,
        *,
        new_token: Callable[[], str] = new_id,
        retries: Retries | None = None,
    ) -> None:
        self.tables = tables
        self.new_token = new_token
        self._retries = retries or Retries()
        self._database = database
        self._sql = load_statements("workflow_store_d1", tables)
        self._closed = False

    @property
    def database(self) -> D1Database:
        """The database that gets the statements."""
        return self._database

    def statement(self, name: str, *values: D1Value) -> D1PreparedStatement:
        """Make one of the named statements."""
        return self.prepare(self._sql[name], *values)

    def prepare(self, sql: str, *values: D1Value) -> D1PreparedStatement:
        """Make a statement of SQL text.

        Raises:
            ConfigurationError: The store is closed.
        """
        if self._closed:
            raise ConfigurationError("the store is closed")
        try:
            return self._database.prepare(sql).bind(*values)
        except D1DatabaseError as error:
            raise store_error(error) from error

    async def rows(self, name: str, *values: D1Value) -> Sequence[Row]:
        """Run one named statement as a transaction of its own."""
        statement = self.statement(name, *values)
        try:
            return (await self._retries.run(MeteredBatch([statement]).send, is_unknown))[0].results
        except D1DatabaseError as error:
            raise store_error(error) from error

    async def batch(
        self, statements: Sequence[D1PreparedStatement], send: SendBatch | None = None, *, recognised: bool = True
    ) -> list[Sequence[Row]]:
        """Run statements in order as one transaction and return the rows of each.

        Args:
            statements: What to run.
            send: How; as the database's batch when absent.
            recognised: Whether the batch does nothing when it was done before, so that it may be repeated.
        """
        batch = MeteredBatch(statements, send or self._database.batch)
        try:
            results = await (self._retries.run(batch.send, is_unknown) if recognised else batch.send())
            return [result.results for result in results]
        except D1DatabaseError as error:
            raise store_error(error) from error

    def close(self) -> None:
        """Make no statement any more."""
        self._closed = True


def json_list(items: Iterable[object] | None) -> str | None:
    """Write a list as one parameter; `None` stays `None`. Ids are valid Unicode: no escapes are needed."""
    return None if items is None else json.dumps(list(items), ensure_ascii=False, separators=(",", ":"))


def store_error(error: D1DatabaseError) -> StoreError:
    """Return a database's error in the contract's words."""
    if error.outcome_unknown:
        return StoreUnavailableError(f"{error.problem}; the outcome is unknown: the call may have taken effect")
    if error.unavailable:
        return StoreUnavailableError(error.problem)
    if "no such table" in error.problem:
        return SchemaMissingError(REMEDY)
    return StoreAccessError(error.problem) if error.no_access else StoreOperationError(error.problem)
