"""The tables: creating them, and asking whether they fit this code."""

from __future__ import annotations

from importlib.resources import files
from sqlite3 import Connection

from workflow_runtime.store import SchemaAheadError, SchemaMissingError

VERSION = 1


def ensure_schema(db: Connection) -> None:
    # One statement after the other: `executescript` would commit the transaction that holds the others off.
    for statement in files(__package__).joinpath("schema.sql").read_text().split(";"):
        db.execute(statement)
    db.execute("INSERT INTO workflow_schema SELECT ? WHERE NOT EXISTS (SELECT 1 FROM workflow_schema)", (VERSION,))
    check_schema(db)


def check_schema(db: Connection) -> None:
    if db.execute("SELECT 1 FROM sqlite_schema WHERE name = 'workflow_schema'").fetchone() is None:
        raise SchemaMissingError("call `ensure_schema()` once")
    (stored,) = db.execute("SELECT version FROM workflow_schema").fetchone()
    if stored > VERSION:
        raise SchemaAheadError((f"version {stored}",), "upgrade workflow-store-sqlite3")
