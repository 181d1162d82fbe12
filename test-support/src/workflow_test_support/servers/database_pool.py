"""Databases that serve one test after the other: emptying one takes a hundredth of the time of making one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import asyncpg
from workflow_test_support.servers.postgres_databases import at_database, copy_template, drop_database, run_aside

__all__ = ["DatabasePool", "database_pool"]

_MOST_TESTS = 50
"""A database is dropped after so many: deleted rows stay in its files until they are vacuumed."""
_PATIENCE_S = 20.0
_MOST_BYTES = 4_000_000
"""A database is dropped when its tables are larger."""

_TABLES = "SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind = 'r' ORDER BY oid"
_BYTES = "SELECT sum(pg_table_size(oid)) FROM pg_class WHERE oid >= 16384 AND relkind = 'r'"
_END_OTHER_SESSIONS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
# Whatever a test can change besides rows. Statistics count too, because they decide which plan a query gets.
_FINGERPRINT = """
SELECT md5(string_agg(facts, '|' ORDER BY facts)) FROM (
    SELECT concat_ws(',', 'class', oid, relname, relnamespace, relkind, relowner, relacl, reloptions, relnatts,
        relchecks, relhastriggers, relrowsecurity, relpersistence, reltuples) AS facts FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT concat_ws(',', 'column', attrelid, attnum, attname, atttypid, atttypmod, attnotnull, attisdropped,
        attacl, attidentity, attcollation, attstattarget) FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT concat_ws(',', 'constraint', oid, conname, conrelid, convalidated) FROM pg_constraint
    UNION ALL SELECT concat_ws(',', 'default', oid, adrelid, adnum) FROM pg_attrdef
    UNION ALL SELECT concat_ws(',', 'index', indexrelid, indisvalid, indkey) FROM pg_index WHERE indrelid >= 16384
    UNION ALL SELECT concat_ws(',', 'function', oid, proname, proacl, prosrc) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT concat_ws(',', 'type', oid, typname) FROM pg_type WHERE oid >= 16384
    UNION ALL SELECT concat_ws(',', 'schema', oid, nspname, nspowner, nspacl) FROM pg_namespace
        WHERE nspname NOT LIKE '%temp%'
    UNION ALL SELECT concat_ws(',', 'trigger', oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(',', 'extension', oid, extname) FROM pg_extension
    UNION ALL SELECT concat_ws(',', 'policy', oid, polname) FROM pg_policy
    UNION ALL SELECT concat_ws(',', 'rule', oid, rulename) FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT concat_ws(',', 'statistics', oid, stxname) FROM pg_statistic_ext
    UNION ALL SELECT concat_ws(',', 'default rights', oid, defaclacl) FROM pg_default_acl
    UNION ALL SELECT concat_ws(',', 'database', datacl, datallowconn, datconnlimit) FROM pg_database
        WHERE datname = current_database()
    UNION ALL SELECT concat_ws(',', 'setting', setrole, setconfig) FROM pg_db_role_setting
        WHERE setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
) AS everything
"""


class DatabasePool:
    """Copies of a template that serve one test after the other.

    A test gets the rows that the template has; what the server counts (`pg_stat_user_tables`) goes on. A database in
    which a test has changed anything but rows (a table, a right, a setting, a plan's statistics) is dropped, and so is
    one that has become large or old.

    Args:
        server_dsn: DSN of the server's maintenance database.
        template: The template. Tables that have rows in it should be small.
    """

    def __init__(self, server_dsn: str, template: str) -> None:
        self._server_dsn = server_dsn
        self._template = template
        self._free: list[str] = []
        self._tests: dict[str, int] = {}
        self._emptied: list[str] = []
        self._kept: list[str] = []
        self._fingerprint: list[str] = []

    @asynccontextmanager
    async def database(self) -> AsyncIterator[str]:
        """Lend a database to one test; gives the DSN."""
        name = self._free.pop() if self._free else await self._copy()
        self._tests[name] += 1
        try:
            yield at_database(self._server_dsn, name)
        finally:
            if self._tests[name] < _MOST_TESTS and await self._empty(name):
                self._free.append(name)
            else:
                await drop_database(self._server_dsn, name)

    async def close(self) -> None:
        """Drop the databases."""
        while self._free:
            await drop_database(self._server_dsn, self._free.pop())

    async def _copy(self) -> str:
        name = await copy_template(self._server_dsn, self._template)
        self._tests[name] = 0
        if not self._fingerprint:
            connection = await asyncpg.connect(at_database(self._server_dsn, name))
            try:
                await self._look_at(connection)
            finally:
                await connection.close()
        return name

    async def _look_at(self, connection: asyncpg.Connection) -> None:
        for (table,) in await connection.fetch(_TABLES):
            has_rows = await connection.fetchval(f"SELECT EXISTS (SELECT FROM {table})")
            (self._kept if has_rows else self._emptied).append(table)
        self._fingerprint = await self._fingerprint_of(connection)

    async def _fingerprint_of(self, connection: asyncpg.Connection) -> list[str]:
        rows = "SELECT md5(string_agg(kept::text, '|' ORDER BY kept::text)) FROM {} AS kept"
        return [await connection.fetchval(sql) for sql in (_FINGERPRINT, *(rows.format(table) for table in self._kept))]

    async def _empty(self, name: str) -> bool:
        """End what a test has left running, and delete its rows. Return False if it has changed more than rows."""
        try:
            connection = await asyncpg.connect(at_database(self._server_dsn, name), command_timeout=_PATIENCE_S)
        except asyncpg.PostgresError:
            return False  # the test has dropped it, or takes up all connections
        try:
            await connection.execute(_END_OTHER_SESSIONS)
            if await self._fingerprint_of(connection) != self._fingerprint:
                return False
            if await connection.fetchval(_BYTES) > _MOST_BYTES:
                return False
            await connection.execute(";".join(f"DELETE FROM {table}" for table in self._emptied))
        except (asyncpg.PostgresError, TimeoutError):
            return False  # a session of the test does not end, and holds a lock
        finally:
            await connection.close()
        return True


@contextmanager
def database_pool(server_dsn: str, template: str) -> Iterator[DatabasePool]:
    """Make a pool for as long as the block lasts."""
    pool = DatabasePool(server_dsn, template)
    yield pool
    run_aside(pool.close())
