"""Chaos: workers killed, drained and frozen, sessions terminated, servers restarted, all along the way of the work.

When to do what is planned by how many steps have begun, never by time, so every deed hits workers at work.
"""

from __future__ import annotations

import asyncio
import random
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import TypeAlias

import asyncpg
from workflow_test_support.servers.postgres_pair import ServerPair
from workflow_test_support.servers.postgres_server import LocalServer
from workflow_test_support.torture.workforce import Workforce

__all__ = ["Chaos", "Deeds"]

Deed: TypeAlias = Callable[[], Awaitable[None]]

_LOOK_S = 0.02
_FIRST, _LAST = 0.05, 0.9
"""Share of the work that is disturbed."""
_AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deeds:
    """The number of disturbances of each kind."""

    kills: int
    terminations: int
    restarts: int
    """Of a single server; of a pair there is one failover."""
    away_s: float
    """Time for which the server stays away at its last restart."""
    drains: int = 0
    freezes: int = 0
    frozen_s: float = 0.0
    """Duration of a freeze."""


@dataclass(slots=True, kw_only=True)
class Chaos:
    """Does the deeds, one after the other.

    Args:
        server: What the store is on.
        workforce: Whom to kill.
        journal: Tells how far the work is.
        steps: How many steps the whole work has.
        deeds: What is to be done.
        rng: Decides on order and victims.
    """

    server: LocalServer | ServerPair
    workforce: Workforce
    journal: Path
    steps: int
    deeds: Deeds
    rng: random.Random
    terminated: int = 0
    outages: list[tuple[float, float]] = field(default_factory=list)
    """Times at which the server was away, on the monotonic clock."""
    _read: int = 0
    _begun: int = 0

    @property
    def progress(self) -> str:
        """Return how far it got, for a message after a timeout."""
        return (
            f"{self._begun} of {self.steps} steps begun, {len(self.workforce.killed)} kills, "
            f"{self.terminated} sessions terminated, {len(self.outages)} outages"
        )

    async def wreak(self) -> None:
        """Do everything, each deed when its time has come."""
        for at, deed in self._plan():
            while self._count_begun() < at:
                self.workforce.check()
                await asyncio.sleep(_LOOK_S)
            await deed()

    def _plan(self) -> list[tuple[float, Deed]]:
        """Return what to do, and after how many begun steps."""
        small = [self._kill] * self.deeds.kills + [self._terminate] * self.deeds.terminations
        small += [self._drain] * self.deeds.drains + [self._freeze] * self.deeds.freezes
        planned: list[tuple[float, Deed]] = [(self.rng.uniform(_FIRST, _LAST), deed) for deed in small]
        great = self._great_deeds()
        planned += [((number + 1) / (len(great) + 1), deed) for number, deed in enumerate(great)]
        return sorted(((part * self.steps, deed) for part, deed in planned), key=itemgetter(0))

    def _great_deeds(self) -> list[Deed]:
        server = self.server
        if isinstance(server, ServerPair):
            return [partial(self._while_away, server.fail_over)]
        return [
            partial(self._while_away, partial(self._restart, server, number)) for number in range(self.deeds.restarts)
        ]

    async def _kill(self) -> None:
        self.workforce.kill_one(self.rng)

    async def _drain(self) -> None:
        await self.workforce.drain_one(self.rng)

    async def _freeze(self) -> None:
        await self.workforce.freeze_one(self.rng, self.deeds.frozen_s)

    async def _terminate(self) -> None:
        """End the session of one of the workers, or of the client, whatever it is doing."""
        while True:
            try:
                with self._unanswered_commits():
                    await asyncio.sleep(_LOOK_S)
                    self.terminated += await self._terminate_one()
            except _AWAY:
                await asyncio.sleep(_LOOK_S)
            else:
                return

    def _unanswered_commits(self) -> AbstractContextManager[object]:
        server = self.server
        return server.held_replication() if isinstance(server, ServerPair) and server.has_standby else nullcontext()

    async def _terminate_one(self) -> bool:
        connection = await asyncpg.connect(self.server.dsn)
        try:
            sessions = await connection.fetch(
                "SELECT pid, state FROM pg_stat_activity WHERE application_name LIKE 'chaos-%' ORDER BY pid"
            )
            # At work if possible: then its answer may be lost after the commit.
            victims = [s for s in sessions if s["state"] == "active"] or sessions
            if not victims:
                return False
            victim = self.rng.choice(victims)["pid"]
            return bool(await connection.fetchval("SELECT pg_terminate_backend($1)", victim))
        finally:
            await connection.close()

    async def _while_away(self, deed: Callable[[], None]) -> None:
        begun = time.monotonic()
        await asyncio.to_thread(deed)
        self.outages.append((begun, time.monotonic()))

    def _restart(self, server: LocalServer, number: int) -> None:
        server.stop(signal.SIGINT if number % 2 else signal.SIGQUIT)
        if number == self.deeds.restarts - 1:
            time.sleep(self.deeds.away_s)
        server.start()

    def _count_begun(self) -> int:
        with self.journal.open("rb") as journal:
            journal.seek(self._read)
            new = journal.read()
        whole = new[: new.rfind(b"\n") + 1]
        self._read += len(whole)
        self._begun += whole.count(b'"begun"')
        return self._begun
