"""The tables as an operator looks after them by the command: what is there, and repairs of what is recorded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from workflow_migrations import Phase, render_migrations
from workflow_store_sql.command import ChecksumRepair, EnvironmentRepair, Look, Patience, RecordRepair, Repair

from .database import D1PreparedStatement
from .schema import ensure_schema, shipped_schema
from .statement_sender import json_list
from .store import D1WorkflowStore

__all__ = ["D1Tables"]


class D1Tables(D1WorkflowStore):
    """The store, as the command opens it."""

    place: Mapping[str, str]
    """Facts about where the tables are, as they were said when it was opened."""

    async def look(self) -> Look:
        """Read what is there."""
        names = json_list(sorted(self._sender.tables.by_key().values()))
        shipped = shipped_schema(self._sender, None)
        reads = ("read_tables", "read_columns", "read_indexes")
        found, columns, indexes = await self._sender.batch([self._sender.statement(read, names) for read in reads])
        return Look(
            shipped=shipped,
            place=self.place,
            found=found,
            records=await self._sender.rows("read_applied_migrations") if shipped.has_records(found) else (),
            columns=columns,
            indexes=indexes,
            builders={},
        )

    async def migrate(self, environment: str | None, phase: Phase, patience: Patience) -> None:
        """Apply what is missing, up to a phase. The database was opened with the patience."""
        del patience
        await ensure_schema(self._sender, environment, contract=phase == "contract", online=phase != "expand")

    async def repair(self, decide: Callable[[Look], Repair]) -> None:
        """Write what is decided, in one batch."""
        # A second try would find the record of the first: it is not repeated.
        await self._sender.batch(self._statements(decide(await self.look())), recognised=False)

    def _statements(self, repair: Repair) -> Sequence[D1PreparedStatement]:
        statement = self._sender.statement
        match repair:
            case RecordRepair(migration=migration):
                (rendered,) = render_migrations([migration], self._sender.tables)
                record = self._sender.prepare(rendered.statements[-1])
                return [record, statement("record_checksum", migration.migration_id, migration.checksum)]
            case ChecksumRepair(migration=migration):
                return [statement("replace_checksum", migration.migration_id, migration.checksum)]
            case EnvironmentRepair(environment=environment):
                return [statement("mark_environment", environment)]
