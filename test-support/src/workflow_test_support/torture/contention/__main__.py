"""Thousands of ticks for each overlap policy, fired as fast as several worker processes can, while some are killed.

The schedules are far behind, so that their ticks are due all at once, and more are asked for meanwhile. Afterwards the
database's own history must tell that every tick was settled once, and that no two runs of a schedule were live at once
unless its policy is `allow`.

    python -m workflow_test_support.torture.contention --ticks 300 --workers 4
    python -m workflow_test_support.torture.contention --sqlite
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import get_args

from workflow_runtime.store import OverlapPolicy
from workflow_test_support.servers.postgres_server import LocalServer
from workflow_test_support.torture.contention import worker
from workflow_test_support.torture.contention.clientele import Clientele
from workflow_test_support.torture.journal import open_journal, read_journal
from workflow_test_support.torture.ledgers import Database, PostgresDatabase, SQLiteDatabase
from workflow_test_support.torture.tick_verdict import Evidence, History, find_problems
from workflow_test_support.torture.workforce import Workforce

_LOOK_S = 0.1
_SHOWN_PROBLEMS = 20
_LEFT = """
SELECT schedule_id FROM workflow_schedules
WHERE coalesce(next_fire_at, buffered_fire_at, requested_fire_at, lease_expires_at) IS NOT NULL
    OR schedule_id IN (SELECT schedule_id FROM workflow_schedule_buckets)
"""
_HEADS = "SELECT run_id, status, created_at, finished_at FROM workflow_event_locks"
_LIVE = "SELECT run_id FROM workflow_event_locks WHERE finished_at IS NULL"
_SETTLED = "SELECT count(*) AS settled FROM ledger WHERE what = 'settled'"


def main() -> int:
    options = _parse_options()
    with (
        tempfile.TemporaryDirectory(prefix="contention-") as folder,
        nullcontext() if options.sqlite else LocalServer() as server,
    ):
        open_journal(Path(folder) / "journal")
        address = str(Path(folder) / "app.db") if server is None else server.dsn
        database = SQLiteDatabase(Path(address)) if server is None else PostgresDatabase(address)
        return asyncio.run(Contention(database, address, options, Path(folder)).perform())


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ticks", type=int, default=300, help="for each policy")
    parser.add_argument("--schedules", type=int, default=6, help="that share the ticks of a policy")
    parser.add_argument("--policies", nargs="+", choices=get_args(OverlapPolicy), default=get_args(OverlapPolicy))
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--kills", type=int, default=1, help="for each policy")
    parser.add_argument("--lease", type=float, default=1.0, help="seconds that a lease lasts")
    parser.add_argument("--sqlite", action="store_true", help="a file instead of a PostgreSQL server")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300.0, help="for each policy, in seconds")
    return parser.parse_args()


@dataclass(frozen=True, slots=True)
class Contention:
    """All policies, one after the other, with the same workers."""

    database: Database
    address: str
    options: argparse.Namespace
    folder: Path

    async def perform(self) -> int:
        options, journal = self.options, self.folder / "journal"
        arguments = ["--database", self.address, "--journal", str(journal), "--lease", str(options.lease)]
        rng, clients, took = random.Random(options.seed), [], []
        async with self.database.open_store() as store:
            await store.ensure_schema()
            await self.database.keep_ledger()
            with Workforce(worker.__name__, arguments, options.workers, self.folder) as workforce:
                for policy in options.policies:
                    client = Clientele(store, policy, options.schedules, options.ticks, rng)
                    begun = time.monotonic()
                    if not await self._settled(client, workforce, rng):
                        return 1
                    took.append(time.monotonic() - begun)
                    clients.append(client)
                workforce.stop()
        return self._judge(await self._gather(clients, workforce), clients, took)

    async def _settled(self, client: Clientele, workforce: Workforce, rng: random.Random) -> bool:
        """Wait until one policy's ticks are settled; if that takes too long, print what is stuck."""
        try:
            async with asyncio.timeout(self.options.timeout), asyncio.TaskGroup() as group:
                serving = group.create_task(client.serve())
                await self._kill_along_the_way(workforce, rng)
                await serving
                await self._until_nothing_is_left(workforce)
        except TimeoutError:
            left, live = await self.database.fetch(_LEFT), await self.database.fetch(_LIVE)
            print(f"{client.policy}: still waiting: {left[:5]}, still live: {live[:5]}", file=sys.stderr)
            return False
        return True

    async def _kill_along_the_way(self, workforce: Workforce, rng: random.Random) -> None:
        """Kill workers after so many settled ticks, never after so much time: they are at work then."""
        before = await self._count_settled()
        for at in sorted(rng.uniform(0.1, 0.8) * self.options.ticks for _ in range(self.options.kills)):
            while await self._count_settled() - before < at:
                workforce.check()
                await asyncio.sleep(_LOOK_S)
            workforce.kill_one(rng)

    async def _count_settled(self) -> int:
        [row] = await self.database.fetch(_SETTLED)
        return int(row["settled"])

    async def _until_nothing_is_left(self, workforce: Workforce) -> None:
        while await self.database.fetch(_LEFT) or await self.database.fetch(_LIVE):
            workforce.check()
            await asyncio.sleep(_LOOK_S)

    async def _gather(self, clients: list[Clientele], workforce: Workforce) -> Evidence:
        return Evidence(
            policies={schedule: client.policy for client in clients for schedule in client.expected},
            expected={schedule: ticks for client in clients for schedule, ticks in client.expected.items()},
            ledger=await self.database.fetch("SELECT what, subject, fire_at, outcome FROM ledger ORDER BY seq"),
            heads={head["run_id"]: head for head in await self.database.fetch(_HEADS)},
            leftovers=[row["schedule_id"] for row in await self.database.fetch(_LEFT)],
            journal=read_journal(self.folder / "journal"),
            killed=workforce.killed,
        )

    def _judge(self, evidence: Evidence, clients: list[Clientele], took: list[float]) -> int:
        problems = find_problems(evidence)
        for problem in problems[:_SHOWN_PROBLEMS]:
            print(f"PROBLEM: {problem}")
        for client, seconds in zip(clients, took, strict=True):
            print(_figures(evidence, client, seconds))
        print(
            f"contention runs: {sum(map(len, evidence.expected.values()))} ticks, {len(evidence.heads)} runs, "
            f"{self.options.workers} workers, {len(evidence.killed)} kills, {len(problems)} problems, {sum(took):.1f} s"
        )
        return 1 if problems else 0


def _most_at_once_ms(evidence: Evidence, history: History) -> int:
    """Return by how much two runs overlap by the times in the store.

    These are the clocks of two workers, each read before its call was sent: some milliseconds mean nothing.
    """
    times = [(head["created_at"], head["finished_at"]) for head in map(evidence.heads.__getitem__, history.born)]
    return max((before[1] - after[0] for before, after in pairwise(sorted(times))), default=0)


def _figures(evidence: Evidence, client: Clientele, seconds: float) -> str:
    histories = [evidence.histories[schedule] for schedule in client.expected]
    outcomes = sum((Counter(history.outcomes.values()) for history in histories), Counter[str]())
    at_once_ms = max(_most_at_once_ms(evidence, history) for history in histories)
    ends = Counter(evidence.heads[run_id]["status"] for history in histories for run_id in history.born)
    return (
        f"{client.policy}: {outcomes.total()} ticks {dict(client.sources)} of {len(histories)} schedules, "
        f"settled {dict(outcomes)}, put back {sum(len(history.put_back) for history in histories)}, runs {dict(ends)}, "
        f"two of a schedule at once for {max(0, at_once_ms)} ms by the times in the store, "
        f"{outcomes.total() / seconds:.0f} ticks/s, {seconds:.1f} s"
    )


if __name__ == "__main__":
    sys.exit(main())
