"""The work of each command: what is looked at, changed and answered. It knows no command line."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from importlib import resources

from workflow_migrations import Migration, Phase
from workflow_runtime.store import ConfigurationError, SchemaError, WorkflowError
from workflow_store_sql import chosen_migrations

from .adapter import Adapter, Names, Patience, Tables
from .look import Look
from .repairs import Repair
from .reports import Report

__all__ = ["NotLookedError", "Task"]


class NotLookedError(Exception):
    """The database could not be looked at. The cause says why."""

    def __init__(self, error: WorkflowError) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One call of the command.

    Args:
        adapter: The store.
        names: The names of its tables.
        options: What says where the database is.
        patience: How long a migration may take.
    """

    adapter: Adapter
    names: Names
    options: Mapping[str, str | None]
    patience: Patience = field(default_factory=Patience)

    async def status(self) -> Report:
        """Answer `status`."""
        async with self._opened() as (_, look):
            return Report.of_status(look)

    async def plan(self, phase: Phase, *, exit_code: bool) -> Report:
        """Answer `plan`."""
        async with self._opened() as (_, look):
            return Report.of_plan(look, phase, exit_code=exit_code)

    async def check(self, *, deep: bool) -> Report:
        """Answer `check`."""
        async with self._opened() as (_, look):
            look.check(deep=deep)
            return Report.of_check(deep=deep)

    async def migrate(self, phase: Phase) -> Report:
        """Do `migrate`."""
        async with self._opened(create=True) as (tables, look):
            await tables.migrate(look.environment, phase, self.patience)
            return Report.of_migration(look, await tables.look(), phase)

    async def repair(self, decide: Callable[[Look], Repair | None], confirm: Callable[[Repair], None]) -> Report:
        """Do `repair`.

        Args:
            decide: Returns what to write, `None` for nothing, or raises.
            confirm: Raises unless it may be written.
        """
        async with self._opened() as (tables, look):
            wanted = decide(look)
            if wanted is None:
                return Report.of_repair(None)
            confirm(wanted)

            def decide_again(now: Look) -> Repair:
                if decide(now) != wanted:  # time has passed since the first look
                    raise SchemaError("somebody has changed what is recorded meanwhile: look again")
                return wanted

            await tables.repair(decide_again)
            return Report.of_repair(wanted)

    def script(self, ids: Sequence[str] | None, from_id: str | None, to_id: str | None, *, transaction: bool) -> Report:
        """Answer `sql`. It needs no database."""
        chosen: Sequence[Migration] = chosen_migrations(
            self.adapter.migrations(self.names), ids=ids, from_id=from_id, to_id=to_id
        )
        script = self.adapter.script(self.names, [one.migration_id for one in chosen], transaction=transaction)
        return Report.of_script(chosen, script)

    def partition_script(self, partitions: int, *, transaction: bool) -> Report:
        """Answer `sql` for a log in partitions. It needs no database."""
        partitioning = self.adapter.partitioning
        if partitioning is None:
            raise ConfigurationError(f"{self.adapter.distribution} has no partitions")
        return Report.of_script((), partitioning.script(self.names, partitions, transaction))

    def path(self) -> Report:
        """Answer `path`."""
        return Report.of_path(str(resources.files(self.adapter.package).joinpath("migrations")))

    @asynccontextmanager
    async def _opened(self, *, create: bool = False) -> AsyncIterator[tuple[Tables, Look]]:
        """Open the database and look at it once: what goes wrong so far is no verdict on the tables."""
        async with AsyncExitStack() as stack:
            try:
                opening = self.adapter.open(self.names, self.options, self.patience, create=create)
                tables = await stack.enter_async_context(opening)
                look = await tables.look()
            except SchemaError:
                raise
            except WorkflowError as error:
                raise NotLookedError(error) from error
            yield tables, look
