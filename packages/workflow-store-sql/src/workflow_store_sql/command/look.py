"""The tables as they are found, and what follows from that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from workflow_migrations import AppliedMigration, Migration, Phase
from workflow_runtime.store import SchemaError

from ..rows import Row
from ..schema import Schema

__all__ = ["Look", "Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A migration that is to be applied."""

    migration: Migration
    unit: int
    """Number that those share which are applied together, or not at all."""
    transaction: bool
    """False if an index is built while others write, which no transaction can do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The state of a database's tables, read once."""

    shipped: Schema
    """The tables as the package ships them, without an environment: the one that is recorded counts."""
    place: Mapping[str, str]
    """Facts about where they are: `schema`, `database`, `file`, `server`."""
    found: Sequence[Row]
    """A row for each column of what has a name of our tables, as `Schema.is_ours` takes it."""
    records: Sequence[Row]
    """The rows of the table of the migrations, with `package_version` and `applied_at`."""
    columns: Sequence[Row]
    """A row for each column of the tables, as `differences` takes it."""
    indexes: Sequence[Row]
    """A row for each index of them, as `differences` takes it."""
    faults: Sequence[str] = ()
    """Faults of them beside columns and indexes, in words."""
    builders: Mapping[str, str]
    """Builders of an index, in words, by the name of its table."""

    @property
    def environments(self) -> tuple[str, ...]:
        """The marks of the tables: more than one is a fault."""
        return tuple(sorted({row["environment"] for row in self.records if row.get("environment") is not None}))

    @property
    def environment(self) -> str | None:
        """The environment that the tables belong to, which an operator takes for his own."""
        return next(iter(self.environments), None)

    @property
    def schema(self) -> Schema:
        """The tables as the package ships them, for a program of their environment."""
        remedy = f"run `{self.shipped.distribution} migrate`"
        return replace(self.shipped, environment=self.environment, remedy=remedy)

    @property
    def unusable(self) -> Sequence[Row]:
        """The indexes that are half-built."""
        return [row for row in self.indexes if not row["is_valid"]]

    def applied(self) -> Sequence[AppliedMigration]:
        """Return what was applied.

        Raises:
            SchemaError: What is there is not ours, or not recorded.
        """
        if not self.schema.is_ours(self.found):
            return ()
        return self.schema.applied(self.found, self.records)

    def check(self, *, deep: bool = False) -> None:
        """Raise unless this package can run on the tables.

        Args:
            deep: Whether to compare each column and index too.

        Raises:
            SchemaError: It cannot.
        """
        applied = self.applied()
        self.schema.check(applied)
        if deep:
            self.schema.compare(applied, self.columns, self.indexes, self.faults)

    def problem(self) -> SchemaError | None:
        """Return why this package cannot run on the tables; `None` if it can."""
        try:
            self.check()
        except SchemaError as error:
            return error
        return None

    def missing(self) -> Sequence[Migration]:
        """Return what is not recorded, by the ids alone, whatever else is wrong."""
        recorded = {row["migration_id"] for row in self.records}
        return [one for one in self.shipped.migrations if one.migration_id not in recorded]

    def steps(self, phase: Phase) -> Sequence[Step]:
        """Return what is to be applied, in order.

        Args:
            phase: The last phase that is wanted. New tables get everything.

        Raises:
            SchemaError: Nothing can be applied to what is there.
        """
        applied, steps, schema = list(self.applied()), list[Step](), self.schema
        options = {"contract": phase == "contract", "online": phase != "expand"}
        while unit := schema.next_unit(applied, **options):
            number = 1 + (steps[-1].unit if steps else 0)
            alone = len(unit) == 1 and unit[0].number > 0
            steps += [Step(migration=one, unit=number, transaction=one.transactional or not alone) for one in unit]
            applied += [AppliedMigration(migration_id=one.migration_id, checksum=one.checksum) for one in unit]
        return steps
