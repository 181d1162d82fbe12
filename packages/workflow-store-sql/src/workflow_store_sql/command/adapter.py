"""The part of the command that each store brings: how its tables are found, looked at and changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from workflow_migrations import Migration, Phase

from .look import Look
from .repairs import Repair

__all__ = ["Adapter", "ConnectionOption", "Names", "Partitioning", "Patience", "Tables"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionOption:
    """An option that says where the database is. Secrets have none: they come from the environment."""

    name: str
    """Its name without the hyphens; its value comes under this name."""
    metavar: str
    help: str
    variables: tuple[str, ...] = ()
    """Environment variables that are read where the option is not given."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The names of the tables, as they are asked for."""

    schema: str | None = None
    tables: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Partitioning:
    """The script of a store whose log can be in partitions. It is no migration: no program needs it."""

    counts: Sequence[int]
    """Numbers of partitions that there may be; 1 is one table."""
    script: Callable[[Names, int, bool], str]
    """Returns the script for these names and so many partitions, with BEGIN and COMMIT or without."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """Time that a migration may take; `None` where the store decides."""

    lock_timeout: timedelta | None = None
    """Time to wait for others: who migrate, or use the tables."""
    migration_timeout: timedelta | None = None
    """Time for one statement."""
    wait: bool = False
    """True to wait for an index that another process builds, too."""


class Tables(Protocol):
    """The tables of one database, which is open."""

    async def look(self) -> Look:
        """Read what is there. It changes nothing."""
        ...

    async def migrate(self, environment: str | None, phase: Phase, patience: Patience) -> None:
        """Apply what is missing, up to a phase.

        Args:
            environment: Environment that the tables are marked with.
            phase: `expand`, `online` for indexes too, `contract` for everything.
            patience: How long it may take.
        """
        ...

    async def repair(self, decide: Callable[[Look], Repair]) -> None:
        """Look, and write what is decided by that: in one transaction and apart from who migrates, where that can be.

        Args:
            decide: Returns what to write, or raises.
        """
        ...


class Adapter(Protocol):
    """A store, as the command knows it."""

    @property
    def distribution(self) -> str:
        """Its name, which is that of the command too."""
        ...

    @property
    def package(self) -> str:
        """Its import name."""
        ...

    @property
    def version(self) -> str:
        """Its version."""
        ...

    @property
    def options(self) -> Sequence[ConnectionOption]:
        """The options that say where the database is."""
        ...

    @property
    def has_schemas(self) -> bool:
        """True if the tables can be in a schema that is chosen."""
        ...

    @property
    def in_transaction(self) -> bool:
        """True if a script of migrations has a BEGIN and a COMMIT for each unless it is asked to do without."""
        ...

    @property
    def partitioning(self) -> Partitioning | None:
        """The script for a log in partitions; `None` if the database has none."""
        ...

    def migrations(self, names: Names) -> Sequence[Migration]:
        """Return what it ships, with these names.

        Raises:
            ConfigurationError: Names that cannot work.
        """
        ...

    def script(self, names: Names, ids: Sequence[str], *, transaction: bool) -> str:
        """Return migrations as one script.

        Raises:
            ConfigurationError: Names, or an id, that cannot work.
        """
        ...

    def open(
        self, names: Names, options: Mapping[str, str | None], patience: Patience, *, create: bool
    ) -> AbstractAsyncContextManager[Tables]:
        """Open the database.

        Args:
            names: The names of the tables.
            options: Values of `options`, by name.
            patience: How long a migration may take.
            create: Whether to make a database that is not there, if it is a file.

        Raises:
            WorkflowError: It cannot be opened.
        """
        ...
