"""The statements of a store as they are sent: its named queries, with the table names that its user chose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from workflow_migrations import DEFAULT_TABLES, TableNames, render_sql

from .queries import load_queries

__all__ = ["load_statements"]


@lru_cache(maxsize=8)
def load_statements(package: str, tables: TableNames = DEFAULT_TABLES, schema: str | None = None) -> Mapping[str, str]:
    """Return the text of each named query of a store.

    Args:
        package: The import name of the store, which has its queries in the folder `sql`.
        tables: The table names.
        schema: The schema of the tables, in databases that have schemas.

    Raises:
        InvalidQueryFileError: As `load_queries`.
    """
    texts = {name: query.sql for name, query in load_queries(package).items()}
    if tables == DEFAULT_TABLES and schema is None:
        return texts
    return {name: render_sql(sql, tables, schema=schema) for name, sql in texts.items()}
