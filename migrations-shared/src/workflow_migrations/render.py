"""Putting the user's table names into SQL that is written with the default ones."""

from __future__ import annotations

import hashlib

from .lexer import replace_words
from .names import DEFAULT_TABLES, MAX_NAME_BYTES, TableNames

__all__ = ["index_name", "quote_identifier", "render_sql"]

_BEFORE_INDEX_NAME = {"CONCURRENTLY", "IF", "EXISTS"}
"""Words that may stand between `DROP INDEX` and the name."""
_LONGEST_DROP = len({"DROP", "INDEX"} | _BEFORE_INDEX_NAME)


def render_sql(sql: str, tables: TableNames, *, schema: str | None = None) -> str:
    """Replace default table names, and the names of indexes that begin with them.

    Args:
        sql: Text written with the default names, unquoted. Strings, comments and quoted names stay as they are.
        tables: The names to put in. A table with its default name stays as it is.
        schema: When given, every table name is qualified with it. The name of an index is only where it is dropped: a
            new one is made beside its table.
    """
    renderer = _Renderer(tables, schema)
    return replace_words(sql, renderer.replace)


def quote_identifier(name: str) -> str:
    """Write a name so that any database takes it literally."""
    return '"' + name.replace('"', '""') + '"'


def index_name(name: str, tables: TableNames) -> str:
    """Return the name that an index or a constraint has beside the chosen table names.

    Args:
        name: Its name beside the default ones.
        tables: The chosen names.
    """
    return _Renderer(tables, None).index(name)


class _Renderer:
    def __init__(self, tables: TableNames, schema: str | None) -> None:
        self._qualifier = "" if schema is None else quote_identifier(schema) + "."
        self._chosen = {default: tables.by_key()[key] for key, default in DEFAULT_TABLES.by_key().items()}
        self._before: tuple[str, ...] = ()

    def replace(self, word: str) -> str:
        dropped = self._is_dropped_index(word)
        if word in self._chosen:
            return self._table(word)
        name = self.index(word)
        if dropped and self._qualifier:
            return self._qualifier + quote_identifier(name)
        return word if name == word else quote_identifier(name)

    def _is_dropped_index(self, word: str) -> bool:
        before = self._before
        self._before = (*before, word.upper())[-_LONGEST_DROP:]
        while before and before[-1] in _BEFORE_INDEX_NAME:
            before = before[:-1]
        return before[-2:] == ("DROP", "INDEX") and word.upper() not in _BEFORE_INDEX_NAME

    def index(self, word: str) -> str:
        for default, chosen in self._chosen.items():
            if word.startswith(default + "_"):
                return word if chosen == default else self._index(word, default, chosen)
        return word

    def _table(self, default: str) -> str:
        chosen = self._chosen[default]
        name = default if chosen == default and not self._qualifier else quote_identifier(chosen)
        return self._qualifier + name

    def _index(self, word: str, default: str, chosen: str) -> str:
        """Rename an index along with its table.

        Tables and indexes share one space of names, so a name that could also be another table's or another
        table's index gets a hash, like one that is too long. The rule looks at the table names only: each
        migration that mentions the index finds the same name for it.
        """
        name = chosen + word.removeprefix(default)
        others = [other.lower() for other in self._chosen.values() if other != chosen]
        ambiguous = any(name.lower() == other or name.lower().startswith(other + "_") for other in others)
        if not ambiguous and len(name.encode("utf-8")) <= MAX_NAME_BYTES:
            return name
        mark = "_" + hashlib.sha256(f"{chosen}\0{word}".encode()).hexdigest()[:16]
        return _cut(name, MAX_NAME_BYTES - len(mark)) + mark


def _cut(name: str, size: int) -> str:
    return name.encode("utf-8")[:size].decode("utf-8", errors="ignore")
