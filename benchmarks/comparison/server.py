"""The private PostgreSQL of a comparison: durable, a database for each measurement, and readings of what it spends."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import psycopg
from workflow_test_support.servers.postgres_databases import at_database
from workflow_test_support.servers.postgres_server import LocalServer

__all__ = ["SETTINGS", "Reading", "Server"]

SETTINGS = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
"""What makes a commit durable. Everything else is as the server comes."""
# It is there all the time, but counts only when it is told to: rates are measured without it.
COUNTER = "shared_preload_libraries=pg_stat_statements"
STATEMENTS = """
SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements
WHERE dbid = (SELECT oid FROM pg_database WHERE datname = %s)
"""
PARENT, CPU = 3, slice(13, 15)
"""Fields of /proc/PID/stat, from 0: the parent; the ticks of this process."""
CPU_OF_ENDED = slice(15, 17)
"""The ticks of children that have ended."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What the server has spent so far."""

    cpu_s: float
    """CPU time of all its processes, also of those that have ended. 0 where there is no /proc."""
    wal_bytes: int
    statements: int
    """Statements that clients have sent to the database; 0 while nothing counts them."""


class Server:
    """A server of our own, on the disk that temporary files are on."""

    def __init__(self) -> None:
        self._server = LocalServer(*SETTINGS, COUNTER, durable=True)
        self._numbers = itertools.count()
        self._observer: psycopg.Connection[tuple[int]] | None = None
        self._postmaster = 0

    def __enter__(self) -> Server:
        self._server.__enter__()
        try:
            self._observer = psycopg.connect(self._server.dsn, autocommit=True)
            self._ask("CREATE EXTENSION pg_stat_statements")
            self._set("off", "none")
            # Whoever sees the server's processes finds it as the parent of a session.
            self._postmaster = _parent_of(self._observer.info.backend_pid)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._observer is not None:
            self._observer.close()
        self._server.__exit__()

    @property
    def version(self) -> str:
        """Version of PostgreSQL."""
        return str(self._ask("SHOW server_version"))

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database for as long as the block lasts, and yield its DSN."""
        name = f"contender_{next(self._numbers)}"
        self._ask(f"CREATE DATABASE {name}")
        try:
            yield at_database(self._server.dsn, name)
        finally:
            self._ask(f"DROP DATABASE {name} WITH (FORCE)")

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Count statements while the block lasts."""
        self._set("on", "top")
        try:
            yield
        finally:
            self._set("off", "none")

    def read(self, dsn: str) -> Reading:
        """Return what the server has spent, with the statements of one database."""
        statements = self._ask(STATEMENTS, dsn.rpartition("/")[2])
        wal = self._ask("SELECT (pg_current_wal_insert_lsn() - '0/0')::bigint")
        return Reading(_cpu_s(self._postmaster), int(wal), int(statements))

    def _set(self, ids: str, track: str) -> None:
        self._ask(f"ALTER SYSTEM SET compute_query_id = '{ids}'")
        self._ask(f"ALTER SYSTEM SET pg_stat_statements.track = '{track}'")
        self._ask("SELECT pg_reload_conf()")

    def _ask(self, sql: str, *arguments: object) -> int:
        assert self._observer is not None
        cursor = self._observer.execute(sql.encode(), arguments or None)
        row = cursor.fetchone() if cursor.description else None
        return row[0] if row else 0


def _cpu_s(postmaster: int) -> float:
    """Return the CPU time of a process and its children; what has ended is in the parent's account."""
    if not postmaster:
        return 0.0
    ticks = sum(map(int, _stat(postmaster)[CPU])) + sum(map(int, _stat(postmaster)[CPU_OF_ENDED]))
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):  # it has ended meanwhile
            facts = _stat(int(process.name))
            if int(facts[PARENT]) == postmaster:
                ticks += sum(map(int, facts[CPU]))
    return ticks / os.sysconf("SC_CLK_TCK")


def _parent_of(process: int) -> int:
    with contextlib.suppress(OSError, IndexError):
        return int(_stat(process)[PARENT])
    return 0


def _stat(process: int) -> list[str]:
    """Return the fields of a process; its name, which may hold anything, stands as one word."""
    text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
    return [text.partition(" ")[0], "-", *text.rpartition(")")[2].split()]
