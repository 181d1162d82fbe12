"""Looks at the workers and the database every few seconds while the soak lasts."""

from __future__ import annotations

import asyncio
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import asyncpg

__all__ = ["Sample", "Sampler", "TableSize"]

_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'chaos-%'"
_TABLES = """
SELECT
    relname AS name,
    pg_relation_size(relid) AS table_bytes,
    pg_indexes_size(relid) AS index_bytes,
    pg_total_relation_size(relid) AS total_bytes,
    n_dead_tup AS dead,
    n_tup_upd AS updated,
    n_tup_hot_upd AS hot_updated
FROM pg_stat_user_tables
WHERE relname LIKE 'workflow\\_%'
ORDER BY relname
"""
_RUNS = "SELECT count(*) FROM workflow_runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSize:
    """One table, as the server counts."""

    name: str
    table_bytes: int
    index_bytes: int
    total_bytes: int
    dead: int
    updated: int
    hot_updated: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look."""

    at_s: float
    """Since the beginning."""
    memory: Mapping[int, int]
    """KiB of each worker process."""
    sessions: int
    runs: int
    tables: Sequence[TableSize]


class Sampler:
    """Takes samples until it is cancelled.

    Args:
        dsn: Where the database is.
        pids: Gives the worker processes.
        every_s: The time between two samples.
    """

    def __init__(self, dsn: str, pids: Callable[[], Sequence[int]], every_s: float) -> None:
        self._dsn = dsn
        self._pids = pids
        self._every_s = every_s
        self._begun = time.monotonic()
        self.samples: list[Sample] = []

    async def watch(self) -> None:
        """Sample for ever."""
        connection = await asyncpg.connect(self._dsn)
        try:
            while True:
                await self.take(connection)
                await asyncio.sleep(self._every_s)
        finally:
            await connection.close()

    async def take(self, connection: asyncpg.Connection) -> None:
        """Take one sample."""
        self.samples.append(
            Sample(
                at_s=time.monotonic() - self._begun,
                memory=await asyncio.to_thread(_resident, self._pids()),
                sessions=await connection.fetchval(_SESSIONS),
                runs=await connection.fetchval(_RUNS),
                tables=[TableSize(**row) for row in await connection.fetch(_TABLES)],
            )
        )


def _resident(pids: Sequence[int]) -> dict[int, int]:
    """Ask for the resident memory of processes, in KiB; who has just died is left out."""
    command = ["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {int(pid): int(kib) for pid, kib in map(str.split, done.stdout.splitlines()) if int(kib)}
