"""The tables once all migrations have run: described from the migrations, for those who read the tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from .errors import InvalidMigrationError
from .files import Migration
from .lexer import Token, code_tokens, comment_above, source_text, split_statements
from .names import DEFAULT_TABLES, TableNames
from .render import index_name

__all__ = [
    "ColumnDefinition",
    "IndexDefinition",
    "OnlineIndex",
    "TableDefinition",
    "UniqueDefinition",
    "read_online_index",
    "read_table_definitions",
]

_NO_DEFINITION = {"BEGIN", "COMMIT", "INSERT", "UPDATE", "DELETE"}
"""Statements of a migration that define nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDefinition:
    """One column."""

    name: str
    type: str
    """Type as the migration writes it: `text`, `bigint`, `INTEGER`."""
    nullable: bool
    primary_key: bool
    default: str | None = None
    """Value of a row that gives none, as the migration writes it."""
    generated: str | None = None
    """Expression that the database computes the value from."""
    stored: bool = False
    """True if the database keeps a generated value instead of computing it for each reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexDefinition:
    """One index."""

    name: str
    columns: tuple[str, ...]
    """Columns or expressions, as the migration writes them."""
    unique: bool
    where: str | None
    """Condition of the rows that are in it; `None` for all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UniqueDefinition:
    """One unique constraint."""

    name: str | None
    """`None` if the migration leaves the name to the database."""
    columns: tuple[str, ...]


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
    indexes: tuple[IndexDefinition, ...] = ()
    unique: tuple[UniqueDefinition, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlineIndex:
    """The index that a migration without a transaction builds."""

    name: str
    table: str


def read_online_index(migration: Migration, tables: TableNames = DEFAULT_TABLES) -> OnlineIndex:
    """Return which index a migration without a transaction builds.

    Args:
        migration: As its package ships it, with default names.
        tables: The names to show.

    Raises:
        InvalidMigrationError: It builds none.
    """
    keys = {name: key for key, name in DEFAULT_TABLES.by_key().items()}
    for statement in migration.statements:
        words = _Words(code_tokens(statement))
        if words.takes("CREATE", "INDEX", "CONCURRENTLY"):
            name, _, table = words.name(), words.next(), words.name()
            if table in keys:
                return OnlineIndex(name=index_name(name, tables), table=tables.by_key()[keys[table]])
    raise InvalidMigrationError(f"{migration.migration_id}.sql", "builds no index")


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
    return tuple(_rename(found, tables, schema) for found in reader.tables.values())


def _rename(table: TableDefinition, tables: TableNames, schema: str | None) -> TableDefinition:
    return replace(
        table,
        name=tables.by_key()[table.key],
        schema=schema,
        indexes=tuple(replace(index, name=index_name(index.name, tables)) for index in table.indexes),
        unique=tuple(
            replace(one, name=None if one.name is None else index_name(one.name, tables)) for one in table.unique
        ),
    )


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
        if verb in _NO_DEFINITION:
            return
        unique = verb == "CREATE" and words.takes("UNIQUE")
        kind = f"{verb} {words.next()}"
        if kind in {"CREATE INDEX", "DROP INDEX"}:
            words.takes("CONCURRENTLY")
        if_exists = kind == "DROP INDEX" and words.takes("IF", "EXISTS")
        name = words.name()
        if kind == "CREATE INDEX":
            self._index(name, words, unique=unique)
        elif unique:
            raise _NotUnderstoodError(f"CREATE UNIQUE {kind.removeprefix('CREATE ')} …")
        elif kind == "CREATE TABLE":
            self._create(name, comment_above(statement), words)
        elif kind == "ALTER TABLE":
            self._alter(name, words)
        elif kind == "DROP TABLE":
            words.end()
            del self.tables[self._known(name).name]
        elif kind == "DROP INDEX":
            words.end()
            self._drop_index(name, if_exists=if_exists)
        else:
            raise _NotUnderstoodError(f"{kind} …")

    def _create(self, name: str, comment: str, words: _Words) -> None:
        if name not in self._keys:
            raise _NotUnderstoodError(f"the table {name!r} has no key")
        columns = _Columns()
        for item in words.items():
            columns.add(item)
        self.tables[name] = TableDefinition(
            key=self._keys[name],
            name=name,
            schema=None,
            comment=comment,
            columns=columns.finish(),
            unique=tuple(columns.unique),
        )

    def _index(self, name: str, words: _Words, *, unique: bool) -> None:
        if not words.takes("ON"):
            raise _NotUnderstoodError(f"CREATE INDEX {name} {words.next()} …")
        table = self._known(words.name())
        columns = tuple(item.rest() for item in words.items())
        where = words.rest() if words.takes("WHERE") else None
        words.end()
        index = IndexDefinition(name=name, columns=columns, unique=unique, where=where)
        self.tables[table.name] = replace(table, indexes=(*table.indexes, index))

    def _drop_index(self, name: str, *, if_exists: bool) -> None:
        for table in self.tables.values():
            left = tuple(index for index in table.indexes if index.name != name)
            if left != table.indexes:
                self.tables[table.name] = replace(table, indexes=left)
                return
        if not if_exists:
            raise _NotUnderstoodError(f"there is no index {name!r}")

    def _alter(self, name: str, words: _Words) -> None:
        table = self._known(name)
        change = f"{words.next()} {words.next()}"
        if change == "ADD COLUMN":
            self.tables[name] = replace(table, columns=(*table.columns, _read_column(words)))
        elif change == "DROP COLUMN":
            self.tables[name] = _without_column(table, words.name())
            words.end()
        else:
            raise _NotUnderstoodError(f"ALTER TABLE {name} {change} …")

    def _known(self, name: str) -> TableDefinition:
        if name not in self.tables:
            raise _NotUnderstoodError(f"there is no table {name!r}")
        return self.tables[name]


def _without_column(table: TableDefinition, gone: str) -> TableDefinition:
    """Return a table without a column, and without the indexes and constraints that need it."""

    def needs(index: IndexDefinition) -> bool:
        return any(gone in code_tokens(text) for text in (*index.columns, index.where or ""))

    return replace(
        table,
        columns=tuple(column for column in table.columns if column.name != gone),
        indexes=tuple(index for index in table.indexes if not needs(index)),
        unique=tuple(one for one in table.unique if gone not in one.columns),
    )


@dataclass(slots=True)
class _Columns:
    """The items between the parentheses of a CREATE TABLE."""

    columns: list[ColumnDefinition] = field(default_factory=list)
    key: list[str] = field(default_factory=list)
    unique: list[UniqueDefinition] = field(default_factory=list)

    def add(self, words: _Words) -> None:
        if words.takes("PRIMARY", "KEY"):
            self.key = [item.name() for item in words.items()]
            words.end()
        elif words.takes("CONSTRAINT"):
            self._add_unique(words.name(), words)
        elif words.comes("UNIQUE"):
            self._add_unique(None, words)
        else:
            self.columns.append(_read_column(words))

    def _add_unique(self, name: str | None, words: _Words) -> None:
        if not words.takes("UNIQUE"):
            raise _NotUnderstoodError(f"CONSTRAINT {name} {words.next()} …")
        self.unique.append(UniqueDefinition(name=name, columns=tuple(item.name() for item in words.items())))
        words.end()

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
        elif words.takes("COLLATE"):
            words.next()
        elif words.takes("DEFAULT"):
            column = replace(column, default=words.literal())
        elif words.takes("GENERATED", "ALWAYS", "AS"):
            column = replace(column, generated=words.parenthesised(), stored=words.next() == "STORED")
        else:
            raise _NotUnderstoodError(f"column {column.name!r}: {words.next()} …")
    return column


class _Words:
    """The words and marks of a statement, read from left to right."""

    def __init__(self, tokens: Sequence[Token]) -> None:
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
        if not self.comes(*words):
            return False
        self._at += len(words)
        return True

    def comes(self, *words: str) -> bool:
        """Return True if these words are next."""
        here = self._tokens[self._at : self._at + len(words)]
        return tuple(word.upper() for word in here) == words

    def items(self) -> Iterator[_Words]:
        """Take a list in parentheses, item by item."""
        if not self.takes("("):
            raise _NotUnderstoodError(f"{self.next()} where a list was expected")
        depth, item = 1, list[Token]()
        while depth:
            word = self._take()
            depth += {"(": 1, ")": -1}.get(word, 0)
            if depth == 0 or (depth == 1 and word == ","):
                yield _Words(item)
                item = []
            else:
                item.append(word)

    def parenthesised(self) -> str:
        """Take an expression in parentheses, and return it without them."""
        return ", ".join(item.rest() for item in self.items())

    def rest(self) -> str:
        """Take all that is left, as it is written."""
        tokens, self._at = self._tokens[self._at :], len(self._tokens)
        return source_text(tokens)

    def literal(self) -> str:
        """Take a number or a string, as it is written."""
        return self._take()

    def _take(self) -> Token:
        if self.at_end():
            raise _NotUnderstoodError("it ends too early")
        self._at += 1
        return self._tokens[self._at - 1]
