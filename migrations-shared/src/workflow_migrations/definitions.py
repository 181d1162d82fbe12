"""The tables once all migrations have run: described from the migrations, for those who read the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from .errors import InvalidMigrationError
from .files import Migration
from .lexer import code_tokens, comment_above, split_statements
from .names import DEFAULT_TABLES, TableNames

__all__ = ["ColumnDefinition", "TableDefinition", "read_table_definitions"]

_WITHOUT_COLUMNS = {"BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE", "CREATE INDEX", "CREATE UNIQUE", "DROP INDEX"}
"""Statements of a migration that change no column."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDefinition:
    """One column."""

    name: str
    type: str
    """Type as the migration writes it: `text`, `bigint`, `INTEGER`."""
    nullable: bool
    primary_key: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TableDefinition:
    """One table."""

    key: str
    """Key of the table, the same under any name: `runs`, `events`."""
    name: str
    schema: str | None
    """`None` when the connection decides."""
    comment: str
    """Purpose of the table."""
    columns: tuple[ColumnDefinition, ...]
    """Columns, in the order of the database."""


def read_table_definitions(
    migrations: Sequence[Migration], tables: TableNames = DEFAULT_TABLES, *, schema: str | None = None
) -> tuple[TableDefinition, ...]:
    """Return what tables the migrations make, one after the other.

    Args:
        migrations: All of a package's, in order.
        tables: The names to show.
        schema: The schema to show.

    Raises:
        InvalidMigrationError: A statement that this reader does not know. It never guesses.
    """
    reader = _Reader()
    for migration in migrations:
        for statement in split_statements(migration.sql):
            try:
                reader.read(statement)
            except _NotUnderstoodError as error:
                raise InvalidMigrationError(f"{migration.migration_id}.sql", f"cannot be read: {error}") from error
    names = tables.by_key()
    return tuple(replace(found, name=names[found.key], schema=schema) for found in reader.tables.values())


class _NotUnderstoodError(Exception):
    pass


class _Reader:
    """A reader that follows the statements of migrations."""

    def __init__(self) -> None:
        self.tables: dict[str, TableDefinition] = {}
        self._keys = {name: key for key, name in DEFAULT_TABLES.by_key().items()}

    def read(self, statement: str) -> None:
        words = _Words(code_tokens(statement))
        verb = words.next()
        kind = verb if verb in _WITHOUT_COLUMNS else f"{verb} {words.next()}"
        if kind in _WITHOUT_COLUMNS:
            return
        name = words.name()
        if kind == "CREATE TABLE":
            self._create(name, comment_above(statement), words)
        elif kind == "ALTER TABLE":
            self._alter(name, words)
        elif kind == "DROP TABLE":
            words.end()
            del self.tables[self._known(name).name]
        else:
            raise _NotUnderstoodError(f"{kind} …")

    def _create(self, name: str, comment: str, words: _Words) -> None:
        if name not in self._keys:
            raise _NotUnderstoodError(f"the table {name!r} has no key")
        columns = _Columns()
        for item in words.items():
            columns.add(item)
        definition = TableDefinition(
            key=self._keys[name], name=name, schema=None, comment=comment, columns=columns.finish()
        )
        self.tables[name] = definition

    def _alter(self, name: str, words: _Words) -> None:
        table = self._known(name)
        columns = table.columns
        change = f"{words.next()} {words.next()}"
        if change == "ADD COLUMN":
            columns = (*columns, _read_column(words))
        elif change == "DROP COLUMN":
            gone = words.name()
            words.end()
            columns = tuple(column for column in columns if column.name != gone)
        else:
            raise _NotUnderstoodError(f"ALTER TABLE {name} {change} …")
        self.tables[name] = replace(table, columns=columns)

    def _known(self, name: str) -> TableDefinition:
        if name not in self.tables:
            raise _NotUnderstoodError(f"there is no table {name!r}")
        return self.tables[name]


@dataclass(slots=True)
class _Columns:
    """The items between the parentheses of a CREATE TABLE."""

    columns: list[ColumnDefinition] = field(default_factory=list)
    key: list[str] = field(default_factory=list)

    def add(self, words: _Words) -> None:
        if words.takes("PRIMARY", "KEY"):
            self.key = [item.name() for item in words.items()]
            words.end()
        elif words.takes("UNIQUE"):
            list(words.items())
            words.end()
        else:
            self.columns.append(_read_column(words))

    def finish(self) -> tuple[ColumnDefinition, ...]:
        return tuple(
            replace(column, primary_key=True, nullable=False) if column.name in self.key else column
            for column in self.columns
        )


def _read_column(words: _Words) -> ColumnDefinition:
    column = ColumnDefinition(name=words.name(), type=words.name(), nullable=True, primary_key=False)
    while not words.at_end():
        if words.takes("NOT", "NULL"):
            column = replace(column, nullable=False)
        elif words.takes("PRIMARY", "KEY"):
            column = replace(column, primary_key=True, nullable=False)
        elif words.takes("COLLATE") or words.takes("DEFAULT"):
            words.next()
        elif words.takes("GENERATED", "ALWAYS", "AS"):
            list(words.items())
            words.next()  # generated columns: VIRTUAL or STORED
        else:
            raise _NotUnderstoodError(f"column {column.name!r}: {words.next()} …")
    return column


class _Words:
    """The words and marks of a statement, read from left to right."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = tokens
        self._at = 0

    def at_end(self) -> bool:
        return self._at == len(self._tokens)

    def end(self) -> None:
        if not self.at_end():
            raise _NotUnderstoodError(f"{self.next()} …")

    def next(self) -> str:
        """Take one word, in capitals."""
        return self._take().upper()

    def name(self) -> str:
        """Take one bare word, as it is written."""
        word = self._take()
        if not word.isidentifier():
            raise _NotUnderstoodError(f"{word} is not a bare name")
        return word

    def takes(self, *words: str) -> bool:
        """Take these words, if they are next."""
        here = self._tokens[self._at : self._at + len(words)]
        if tuple(word.upper() for word in here) != words:
            return False
        self._at += len(words)
        return True

    def items(self) -> Iterator[_Words]:
        """Take a list in parentheses, item by item."""
        if not self.takes("("):
            raise _NotUnderstoodError(f"{self.next()} where a list was expected")
        depth, item = 1, list[str]()
        while depth:
            word = self._take()
            depth += {"(": 1, ")": -1}.get(word, 0)
            if depth == 0 or (depth == 1 and word == ","):
                yield _Words(item)
                item = []
            else:
                item.append(word)

    def _take(self) -> str:
        if self.at_end():
            raise _NotUnderstoodError("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]
