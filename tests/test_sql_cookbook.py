"""The SQL of docs/sql-cookbook.md runs on real databases and gives what the page says."""

import re
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import asyncpg
import pytest
from workflow_test_support.servers.postgres_server import postgres_dsn

PAGE = Path(__file__).parents[1] / "docs" / "sql-cookbook.md"
SESSION = "SET search_path = cookbook; SET default_transaction_isolation = 'read committed'"
NOT_RUN = {"-- MySQL, MariaDB: not run here"}


@dataclass
class Statement:
    """A statement of the page, with what it says comes of it."""

    session: str
    sql: str
    rows: list[str] = field(default_factory=list)
    error: str | None = None


class Connection(Protocol):
    async def rows(self, sql: str) -> list[str]:
        """Run a statement and return its rows as the page writes them."""
        ...


def blocks(database: str) -> list[str]:
    """Return the blocks of the page for a database, without their first lines."""
    found = re.findall(r"^```sql\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [rest for first, _, rest in (block.partition("\n") for block in found) if first == database]


def statements(block: str) -> Iterator[Statement]:
    """Read the statements of a block; the comments behind each say what it gives."""
    session, lines = "A", list[str]()
    found: list[Statement] = []
    for line in block.splitlines():
        if match := re.fullmatch(r"-- worker (\w)", line):
            session = match[1]
        elif line.startswith("-- gives: "):
            found[-1].rows.append(line.removeprefix("-- gives: "))
        elif line.startswith("-- fails: "):
            found[-1].error = line.removeprefix("-- fails: ")
        else:
            assert not line.startswith("--"), f"a comment that means nothing: {line}"
            lines.append(line)
            if line.endswith(";"):
                found.append(Statement(session, "\n".join(lines)))
                lines = []
    assert lines == [], "the block ends within a statement"
    yield from found


def written(row: Any) -> str:
    return " | ".join(str(value) for value in row)


class PostgresConnection:
    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection

    async def rows(self, sql: str) -> list[str]:
        return [written(row) for row in await self.connection.fetch(sql)]


class SQLiteConnection:
    def __init__(self, path: Path) -> None:
        self.connection = sqlite3.connect(path, isolation_level=None, timeout=0.05)

    async def rows(self, sql: str) -> list[str]:
        return [written(row) for row in self.connection.execute(sql).fetchall()]


async def play(database: str, connections: dict[str, Connection]) -> int:
    """Run the blocks of a database in order; return the number of statements."""
    count = 0
    for block in blocks(database):
        for statement in statements(block):
            count += 1
            connection = connections[statement.session]
            if statement.error is None:
                assert await connection.rows(statement.sql) == statement.rows, statement.sql
                continue
            with pytest.raises((asyncpg.PostgresError, sqlite3.OperationalError), match=re.escape(statement.error)):
                await connection.rows(statement.sql)
    return count


async def test_sql_for_postgres_gives_what_the_page_says() -> None:
    with postgres_dsn() as dsn:
        first, second = await asyncpg.connect(dsn), await asyncpg.connect(dsn)
        try:
            await first.execute("DROP SCHEMA IF EXISTS cookbook CASCADE; CREATE SCHEMA cookbook")
            for connection in (first, second):
                await connection.execute(SESSION)
            connections: dict[str, Connection] = {"A": PostgresConnection(first), "B": PostgresConnection(second)}
            assert await play("-- PostgreSQL", connections) > 30
        finally:
            await first.execute("ROLLBACK")
            await first.execute("DROP SCHEMA cookbook CASCADE")
            await first.close()
            await second.close()


async def test_sql_for_sqlite_gives_what_the_page_says(tmp_path: Path) -> None:
    first, second = SQLiteConnection(tmp_path / "cookbook.db"), SQLiteConnection(tmp_path / "cookbook.db")
    try:
        assert await play("-- SQLite", {"A": first, "B": second}) > 15
    finally:
        first.connection.close()
        second.connection.close()


def test_each_block_says_where_it_runs() -> None:
    """A block with another first line would be run by nobody."""
    text = PAGE.read_text(encoding="utf-8")
    first_lines = re.findall(r"^```(\w*)\n(.*)\n", text, flags=re.MULTILINE)
    opening = [(language, line) for language, line in first_lines if language]

    assert {language for language, _ in opening} <= {"sql", "python", "text"}
    assert {line for language, line in opening if language == "sql"} == {"-- PostgreSQL", "-- SQLite", *NOT_RUN}


def test_sections_of_the_page_are_all_in_its_table() -> None:
    text = PAGE.read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", text, flags=re.MULTILINE)

    assert re.findall(r"^\| \[(.+?)\]\(#", text, flags=re.MULTILINE) == headings
