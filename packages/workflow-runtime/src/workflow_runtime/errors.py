"""Every error that this library raises on purpose, sorted by what the caller can do about it.

```text
WorkflowError
|- InvalidArgumentError          a value that can never work; nothing was written      -> fix the call
|  |- InvalidPayloadError        a value that JSON cannot carry exactly; names the path
|  `- PayloadTooLargeError       larger than the store's declared max_payload_bytes
|- ConfigurationError            the program is put together wrongly                   -> fix the program
|  |- StoreNotOpenError          an `async with` was forgotten
|  |- UnknownWorkflowError
|  |- DuplicateWorkflowError
|  `- TransactionEndedError      a function ended the transaction that it ran in
|- RunNotFoundError              there is no such run                                  -> check the id
|- ScheduleNotFoundError         there is no such schedule                             -> check the id
|- OutcomeError                  the answer to a call says that it changed nothing     -> read its `kind`
|- RunConflictError              the run id is taken by another workflow or input      -> choose another id
|- RunConflictsError             the same of some runs of many; the others started     -> see its `conflicts`
|- ScheduleConflictError         the schedule is being modified concurrently -> repeat it later
|- StoreError                    `retryable` says whether the same call may be repeated
|  |- StoreUnavailableError      the database is away, busy, restarting or full        -> repeat it later
|  |- StoreOperationError        the database refused the operation                    -> read the cause
|  |  `- StoreAccessError        it lets the program not in, or not do what it needs   -> mend login or grants
|  |- LeaseLostError             another worker drives the run now                     -> stop driving it
|  |- LogConflictError           the log is not where the writer believed it to be     -> stop driving it
|  |- CorruptRecordError         a stored row cannot be read; names table and key      -> repair or delete it
|  |- CapabilityNotSupportedError
|  |- QueryLimitReachedError     no queries are left in a `meter_queries(max_queries)`    -> go on in the next one
|  `- SchemaError
|     |- SchemaMissingError      no tables                                             -> apply the migrations
|     |- SchemaBehindError       older than the code                                   -> apply the migrations
|     |- SchemaAheadError        newer than the code                                   -> upgrade the package
|     |- SchemaHalfAppliedError  a migration stopped in the middle                     -> drop them, apply again
|     |- SchemaUnrecordedError   a later migration stopped in the middle               -> run the SQL that it names
|     |- SchemaDamagedError      somebody has changed or dropped some of them          -> mend what it names
|     |- WrongEnvironmentError   the tables belong to another environment: a copy      -> end its runs, mark it as yours
|     `- ForeignTablesError      tables of that name belong to somebody else           -> choose other names
`- ExecutionError                raised inside or about one run
   |- StepFailedError            a step used up its attempts
   |- StepTimeoutError           one attempt of a step took too long
   |- WaitTimeoutError           nothing arrived before the deadline of a wait
   |- WaitLimitError             a handler waits for too much at once
   |- NonDeterminismError        the handler does not match its recorded history
   |- RunFailedError             the awaited run ended as `errored`
   |- RunAbortedError            the awaited run was cancelled, terminated or parked
   `- ResultTimeoutError         the awaited run has not ended in time; it goes on
```

Each class takes fields and builds its own message, so that an error survives pickling.
"""

from __future__ import annotations

import textwrap
from datetime import datetime
from typing import Any, ClassVar

from .failure import Failure, render_failure

__all__ = [
    "CapabilityNotSupportedError",
    "ConfigurationError",
    "CorruptRecordError",
    "DuplicateWorkflowError",
    "ExecutionError",
    "ForeignTablesError",
    "InvalidArgumentError",
    "InvalidPayloadError",
    "LeaseLostError",
    "LogConflictError",
    "NonDeterminismError",
    "OutcomeError",
    "PayloadTooLargeError",
    "QueryLimitReachedError",
    "ResultTimeoutError",
    "RunAbortedError",
    "RunConflictError",
    "RunConflictsError",
    "RunFailedError",
    "RunNotFoundError",
    "ScheduleConflictError",
    "ScheduleNotFoundError",
    "SchemaAheadError",
    "SchemaBehindError",
    "SchemaDamagedError",
    "SchemaError",
    "SchemaHalfAppliedError",
    "SchemaMissingError",
    "SchemaUnrecordedError",
    "StepFailedError",
    "StepTimeoutError",
    "StoreAccessError",
    "StoreError",
    "StoreNotOpenError",
    "StoreOperationError",
    "StoreUnavailableError",
    "TransactionEndedError",
    "UnknownWorkflowError",
    "WaitLimitError",
    "WaitTimeoutError",
    "WorkflowError",
    "WrongEnvironmentError",
]


class WorkflowError(Exception):
    """The root of the tree; catch it to catch everything that this library raises."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Subclasses take keyword fields, which Exception's own pickling would pass by position.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))


def _rebuild(cls: type[WorkflowError], args: tuple[Any, ...], fields: dict[str, Any]) -> WorkflowError:
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(fields)
    return error


class InvalidArgumentError(WorkflowError, ValueError):
    """A value that can never work. Nothing was written. Fix the call."""

    def __init__(self, argument: str, problem: str) -> None:
        self.argument = argument
        self.problem = problem
        super().__init__(f"{argument}: {problem}")


class InvalidPayloadError(InvalidArgumentError):
    """A value that JSON cannot carry exactly. `path` says where inside the value it sits."""

    def __init__(self, argument: str, path: str, problem: str) -> None:
        self.path = path
        super().__init__(argument, f"at {path}: {problem}")


class PayloadTooLargeError(InvalidArgumentError):
    """A payload larger than the store's declared `max_payload_bytes`. Nothing was written."""

    def __init__(self, argument: str, size: int, limit: int) -> None:
        self.size = size
        self.limit = limit
        super().__init__(argument, f"the payload takes {size} bytes as JSON, this store carries at most {limit}")


class ConfigurationError(WorkflowError):
    """The program is put together wrongly: a handler that is not async, a missing extra, a closed store."""


class StoreNotOpenError(ConfigurationError, AttributeError):
    """Something was asked of a store that was not opened yet."""

    def __init__(self, opening: str, name: str) -> None:
        self.opening = opening
        self.name = name
        super().__init__(
            f"the store is not open yet, and has no {name!r}: write `async with {opening} as store:`, or "
            f"`store = await {opening}` and close it yourself"
        )


class UnknownWorkflowError(ConfigurationError):
    """No workflow of that id (and version) is registered with this runtime."""

    def __init__(self, workflow_id: str, version: str | None = None, known: tuple[str, ...] = ()) -> None:
        self.workflow_id = workflow_id
        self.version = version
        self.known = known
        what = repr(workflow_id) if version is None else f"{workflow_id!r} version {version!r}"
        names = ", ".join(repr(name) for name in known) or "none"
        super().__init__(f"workflow {what} is not registered with this runtime (registered: {names})")


class DuplicateWorkflowError(ConfigurationError):
    """Two different workflows were registered under one id and version."""

    def __init__(self, workflow_id: str, version: str) -> None:
        self.workflow_id = workflow_id
        self.version = version
        super().__init__(f"workflow {workflow_id!r} version {version!r} is registered twice")


class TransactionEndedError(ConfigurationError):
    """The function of `ctx.transaction` committed or rolled back by itself. Nothing was recorded.

    What it committed cannot be undone, so it is not tried again.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        super().__init__(
            f"run {run_id!r}: the function of a transaction ended the transaction itself; leave BEGIN, COMMIT and "
            "ROLLBACK to the store, and raise to undo"
        )


class RunNotFoundError(WorkflowError, LookupError):
    """There is no run of that id: never created, deleted, or pruned."""

    def __init__(self, run_id: str | None) -> None:
        self.run_id = run_id
        super().__init__("there is no such run" if run_id is None else f"there is no run {run_id!r}")


class ScheduleNotFoundError(WorkflowError, LookupError):
    """There is no schedule of that id."""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(f"there is no schedule {schedule_id!r}")


class OutcomeError(WorkflowError):
    """The answer to a call says that it changed nothing; its `raise_for_outcome()` raises this, with its `kind`."""

    def __init__(self, kind: str, run_id: str | None, problem: str) -> None:
        self.kind = kind
        self.run_id = run_id
        self.problem = problem
        run = "the run" if run_id is None else f"run {run_id!r}"
        super().__init__(f"{run}: {problem}; nothing was changed ({kind})")


class RunConflictError(WorkflowError):
    """The run id exists already, with another workflow or another input (see `differs`)."""

    def __init__(self, run_id: str, differs: tuple[str, ...]) -> None:
        self.run_id = run_id
        self.differs = differs
        super().__init__(f"run {run_id!r} exists already with another {' and '.join(differs)}")


class RunConflictsError(WorkflowError):
    """Some of many run ids exist already, with another workflow or another input. The other runs were started.

    `conflicts` holds an error for each of them; `run_ids` the ids of all runs of the call, in their order.
    """

    def __init__(self, conflicts: tuple[RunConflictError, ...], run_ids: tuple[str, ...]) -> None:
        self.conflicts = conflicts
        self.run_ids = run_ids
        shown = "; ".join(str(conflict) for conflict in conflicts[:_CONFLICTS_SHOWN])
        more = "; …" if len(conflicts) > _CONFLICTS_SHOWN else ""
        super().__init__(f"{len(conflicts)} of {len(run_ids)} runs were not started: {shown}{more}")


_CONFLICTS_SHOWN = 3


class ScheduleConflictError(WorkflowError):
    """The schedule was changed or fired by others before each of this call's tries. Repeat it later."""

    def __init__(self, schedule_id: str) -> None:
        self.schedule_id = schedule_id
        super().__init__(f"schedule {schedule_id!r} is being modified concurrently: gave up after several tries")


class StoreError(WorkflowError):
    """Something between the caller and the stored data went wrong; the database library's error is the cause."""

    retryable: ClassVar[bool] = False


class StoreUnavailableError(StoreError):
    """The database could not be reached, was busy for too long, restarting, or full. Repeat the call later."""

    retryable: ClassVar[bool] = True

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the store is unavailable: {problem}")


class StoreOperationError(StoreError):
    """The database refused the operation (permissions, a broken file). Repeating does not help."""

    def __init__(self, problem: str) -> None:
        self.problem = problem
        super().__init__(f"the store refused the operation: {problem}")


class StoreAccessError(StoreOperationError):
    """The database does not let this program in, or not do what it needs (login, grant, token, database).

    Nothing of the call was done. It concerns the program and not what the call was about, and it passes when somebody
    mends it: a worker that has worked before sits it out.
    """


class LeaseLostError(StoreError):
    """The lease token is not the current one: somebody else drives the subject now, or its lease was ended.

    Nothing was written. The holder must stop at once.
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        super().__init__(f"the lease on {subject} is lost")


class LogConflictError(StoreError):
    """The event log of the run is not as long as the writer believed. Nothing was written."""

    def __init__(self, run_id: str, expected_next_index: int, actual_next_index: int) -> None:
        self.run_id = run_id
        self.expected_next_index = expected_next_index
        self.actual_next_index = actual_next_index
        super().__init__(
            f"run {run_id!r}: the writer expected the log to continue at index {expected_next_index}, "
            f"but it continues at {actual_next_index}"
        )


class CorruptRecordError(StoreError):
    """A stored row cannot be read back. `table` and `key` say which."""

    def __init__(self, table: str, key: str, problem: str) -> None:
        self.table = table
        self.key = key
        self.problem = problem
        super().__init__(f"corrupt row in {table}, key {key}: {problem}")


class CapabilityNotSupportedError(StoreError):
    """The store lacks the optional capability that was asked of it, or has no schedules (`schedules`)."""

    def __init__(self, capability: str) -> None:
        self.capability = capability
        super().__init__(f"this store does not have the capability {capability!r}")


class QueryLimitReachedError(StoreError):
    """A `meter_queries(max_queries)` has not as many queries left as the call needs. It was not sent.

    Within the same block it will not succeed either.
    """

    def __init__(self, max_queries: int, queries: int, wanted: int) -> None:
        self.max_queries = max_queries
        self.queries = queries
        self.wanted = wanted
        super().__init__(f"{wanted} more queries are too many: of {max_queries} allowed, {queries} are used")


class SchemaError(StoreError):
    """The database's tables and this package do not fit together."""


class SchemaMissingError(SchemaError):
    """The workflow tables are not there. `remedy` names the command that creates them."""

    def __init__(self, remedy: str) -> None:
        self.remedy = remedy
        super().__init__(f"the workflow tables are missing; {remedy}")


class SchemaBehindError(SchemaError):
    """The database lacks migrations that this package needs. `remedy` names the command that applies them."""

    def __init__(self, missing: tuple[str, ...], remedy: str) -> None:
        self.missing = missing
        self.remedy = remedy
        super().__init__(f"the database lacks the migrations {', '.join(missing)}; {remedy}")


class SchemaAheadError(SchemaError):
    """The database has migrations that this package does not know, and it is too old to run on them."""

    def __init__(self, unknown: tuple[str, ...], remedy: str) -> None:
        self.unknown = unknown
        self.remedy = remedy
        super().__init__(f"the database has migrations unknown to this package: {', '.join(unknown)}; {remedy}")


class SchemaHalfAppliedError(SchemaError):
    """Tables are there as a migration makes them, and no migration is recorded: one was applied in part.

    A tool without a transaction stopped in the middle of the file.
    """

    def __init__(self, tables: tuple[str, ...], looked: str = "") -> None:
        self.tables = tables
        self.looked = looked
        super().__init__(
            f"{looked}a migration was applied in part: {', '.join(map(repr, tables))} are there, and no migration is "
            f"recorded. Drop them, unless something has used them, and apply the migrations again"
        )


class SchemaUnrecordedError(SchemaError):
    """Some statements of a later migration were run, and its record is missing.

    A tool without a transaction stopped in the middle of the file. Nothing was touched.
    """

    def __init__(self, migration_id: str, left: tuple[str, ...], looked: str = "") -> None:
        self.migration_id = migration_id
        self.left = left
        """Statements that were not run, in order. The last one records the migration."""
        self.looked = looked
        missing = "only its record is missing" if len(left) == 1 else f"its last {len(left)} statements are missing"
        sql = "".join(f"\n\n{statement};" for statement in left)
        super().__init__(f"{looked}the migration {migration_id} was applied in part, and {missing}. Run the rest:{sql}")


class SchemaDamagedError(SchemaError):
    """The tables are not as the migrations that are recorded make them."""

    def __init__(self, problems: tuple[str, ...], looked: str = "") -> None:
        self.problems = problems
        self.looked = looked
        super().__init__(
            f"{looked}the tables are not as the migrations make them: {'; '.join(problems)}. Mend them by hand: "
            "get_migration_sql() shows how they should be"
        )


class WrongEnvironmentError(SchemaError):
    """The tables are marked with another environment than the store's: they may be a copy. Nothing was touched."""

    def __init__(self, recorded: str, expected: str | None, looked: str = "") -> None:
        self.recorded = recorded
        self.expected = expected
        self.looked = looked
        ours = "this store has none" if expected is None else f"this store is of {expected!r}"
        super().__init__(
            f"{looked}the tables belong to the environment {recorded!r}, and {ours}: give the store "
            f"environment={recorded!r}, or end the runs of a copy before you mark it as your own"
        )


class ForeignTablesError(SchemaError):
    """Tables with our names exist, but they are not ours. Nothing was touched."""

    def __init__(self, table: str, problem: str) -> None:
        self.table = table
        self.problem = problem
        super().__init__(
            f"table {table!r} exists but belongs to something else: {problem}. Give the store other names (tables=), "
            "or a schema or database of its own"
        )


class ExecutionError(WorkflowError):
    """Something went wrong inside one run, or in a call about one."""


class StepFailedError(ExecutionError):
    """A step used up its attempts or failed in a way that is not retried.

    Raised by `ctx.step(...)`. Built from the record, so the first execution and every replay raise the same.
    `failure` is the record of the last attempt's error: its traceback, causes, notes and members. A traceback of
    this error shows it too, as a note.
    """

    def __init__(
        self, step_id: str, error_type: str, message: str, attempts: int, failure: Failure | None = None
    ) -> None:
        self.step_id = step_id
        self.error_type = error_type
        self.message = message
        self.attempts = attempts
        self.failure: Failure = failure or Failure(error_type=error_type, message=message)
        self.recorded_note: str | None = _note(self.failure)
        times = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(f"step {step_id!r} failed after {times}: {error_type}: {message}")
        if self.recorded_note is not None:
            self.add_note(self.recorded_note)


class StepTimeoutError(ExecutionError):
    """One attempt of a step took longer than its `timeout`. It is retried like any other failure."""

    def __init__(self, step_id: str, timeout_s: float) -> None:
        self.step_id = step_id
        self.timeout_s = timeout_s
        super().__init__(f"step {step_id!r} took longer than its timeout of {timeout_s:g} s")


class WaitTimeoutError(ExecutionError, TimeoutError):
    """Nothing arrived before the deadline of `wait_for_event` or `approve`."""

    def __init__(self, step_id: str) -> None:
        self.step_id = step_id
        super().__init__(f"wait {step_id!r} timed out")


class WaitLimitError(ExecutionError):
    """A handler waits for more signals and approvals at once than a run can carry. The wait was not begun.

    `size` and `limit` count what the names and step ids take, in bytes. Shorter names, or waiting for some after the
    others, help.
    """

    def __init__(self, step_id: str, waiting: int, size: int, limit: int) -> None:
        self.step_id = step_id
        self.waiting = waiting
        self.size = size
        self.limit = limit
        super().__init__(
            f"wait {step_id!r} is one too many: with the {waiting} signals and approvals that the run waits for, its "
            f"names and step ids take {size} bytes, and a run carries {limit}"
        )


class NonDeterminismError(ExecutionError):
    """The handler asked for something else than its history records.

    Typically the code of a workflow changed under a run that had begun. Register the old handler under
    `previous_versions`, or repair the code; the run's history is untouched.
    """

    def __init__(self, run_id: str, step_id: str, recorded: str, called: str) -> None:
        self.run_id = run_id
        self.step_id = step_id
        self.recorded = recorded
        self.called = called
        super().__init__(
            f"run {run_id!r} diverges from its history at {step_id!r}: recorded {recorded}, called {called}"
        )


class RunFailedError(ExecutionError):
    """The awaited run ended as `errored`. `failure` is the record of its error, as in `StepFailedError`."""

    def __init__(self, run_id: str, error_type: str, message: str, failure: Failure | None = None) -> None:
        self.run_id = run_id
        self.error_type = error_type
        self.message = message
        self.failure: Failure = failure or Failure(error_type=error_type, message=message)
        self.recorded_note: str | None = _note(self.failure)
        super().__init__(f"run {run_id!r} failed: {error_type}: {message}")
        if self.recorded_note is not None:
            self.add_note(self.recorded_note)


class RunAbortedError(ExecutionError):
    """The awaited run was cancelled or terminated, or is parked as `dead`."""

    def __init__(self, run_id: str, status: str, reason: str | None) -> None:
        self.run_id = run_id
        self.status = status
        self.reason = reason
        super().__init__(f"run {run_id!r} ended as {status}" + (f": {reason}" if reason else ""))


class ResultTimeoutError(ExecutionError, TimeoutError):
    """The awaited run has not ended in time. It goes on; the fields say where it stood."""

    def __init__(  # facts
        self,
        run_id: str,
        timeout_s: float,
        status: str | None,
        since: datetime | None,
        waits_for: tuple[str, ...] = (),
        held_by: str | None = None,
    ) -> None:
        self.run_id = run_id
        self.timeout_s = timeout_s
        self.status = status
        """`None` when the run could not be read in that time."""
        self.since = since
        """Time of the run's last change other than a heartbeat."""
        self.waits_for = waits_for
        """Description of what the run waits for."""
        self.held_by = held_by
        """Worker that drives the run."""
        super().__init__(f"run {run_id!r} has not ended within {timeout_s:g} s{self._where()}")

    def _where(self) -> str:
        if self.status is None or self.since is None:
            return ": it could not be read in that time"
        held = f" by {self.held_by!r}" if self.held_by is not None else ""
        waits = f"; it waits for {', '.join(self.waits_for)}" if self.waits_for else ""
        return f": it is {self.status}{held} since {self.since.isoformat(timespec='milliseconds')}{waits}"


def _note(failure: Failure) -> str | None:
    if failure.is_bare:
        return None
    return "As it was recorded:\n" + textwrap.indent(render_failure(failure), "  ")
