"""A quarter of an hour of everything at once on a real Postgres, under disturbance, and a verdict from the database.

Four workers fire schedules every second (each overlap policy, jitter, a zone) and drive errands and orders; a client
starts these, sends signals and decides approvals. Meanwhile workers are killed, drained and frozen, and their sessions
are terminated. At the end the database must show that no tick, signal, decision or payment was lost or doubled, and
the samples that nothing grows or slows down.

    python -m workflow_test_support.torture.soak --minutes 15
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import defaultdict
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
from workflow_runtime import WorkflowRuntime
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer
from workflow_test_support.torture.client import Client
from workflow_test_support.torture.disturbance import Chaos, Deeds
from workflow_test_support.torture.errand import STEPS
from workflow_test_support.torture.errand_verdict import Evidence, find_problems
from workflow_test_support.torture.journal import open_journal, read_journal
from workflow_test_support.torture.soak import worker
from workflow_test_support.torture.soak.chronicle import install, read_chronicle
from workflow_test_support.torture.soak.customer import Customer
from workflow_test_support.torture.soak.health import Course, find_health_problems
from workflow_test_support.torture.soak.jobs import SCHEDULES, WORKFLOWS
from workflow_test_support.torture.soak.report import print_report
from workflow_test_support.torture.soak.sampling import Sampler
from workflow_test_support.torture.soak.verdict import Deposition, find_soak_problems
from workflow_test_support.torture.workforce import Workforce

_SHOWN_PROBLEMS = 30
_SESSIONS_PER_WORKER = 6
"""Four of its pool, one that listens, one for heartbeats."""
_SESSIONS_OF_CLIENT = 5
_LOOK_S = 0.5
_GOODBYE_S = 10.0
_NOW = "SELECT floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint"
_UNFINISHED = """
SELECT
    (SELECT count(*) FROM workflow_event_locks WHERE status IN ('queued', 'running', 'paused'))
    + (SELECT count(*) FROM workflow_schedules WHERE buffered_fire_at IS NOT NULL OR lease_token IS NOT NULL)
"""
_SESSIONS = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'chaos-%'"
_LEFTOVERS = {
    "timers": "SELECT count(*) FROM workflow_timers",
    "leases of runs": "SELECT count(*) FROM workflow_event_locks WHERE lease_token IS NOT NULL",
    "claims of ticks": "SELECT count(*) FROM workflow_schedules WHERE lease_token IS NOT NULL",
    "ticks put back": "SELECT count(*) FROM workflow_schedules WHERE buffered_fire_at IS NOT NULL",
    "schedule buckets": "SELECT count(*) FROM workflow_schedule_buckets",
    # A cancellation may come when a run has nothing more to do; signals and decisions are only sent to who waits.
    "untaken signals and approvals": (
        "SELECT count(*) FROM workflow_signal_deliveries WHERE NOT taken AND kind <> 'cancel'"
    ),
    "sessions": _SESSIONS,
}
_HEADS = """
SELECT run_id, status, next_index, output::text AS output, reason, created_at, finished_at
FROM workflow_event_locks JOIN workflow_run_states USING (run_id)
ORDER BY run_id
"""
_LOGS = "SELECT run_id, event_index, kind, step_id, payload::text AS payload FROM workflow_events ORDER BY 1, 2"
_PAYMENTS = "SELECT run_id FROM soak_payments"


def main() -> int:
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        open_journal(Path(folder) / "journal")
        with LocalServer(durable=True) as server:
            return asyncio.run(Soak(server, options, Path(folder)).perform())


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--errands", type=float, default=0.5, help="runs of twenty steps begun per second")
    parser.add_argument("--orders", type=float, default=1.0, help="runs with an approval begun per second")
    parser.add_argument("--kills", type=int, help="default: one a minute")
    parser.add_argument("--terminations", type=int, help="default: three a minute")
    parser.add_argument("--drains", type=int, help="default: one in two minutes")
    parser.add_argument("--freezes", type=int, help="of three leases each; default: one in five minutes")
    parser.add_argument("--lease", type=float, default=5.0, help="seconds that a lease lasts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--patience", type=float, default=120.0, help="seconds for the work that is left at the end")
    return parser.parse_args()


class Soak:
    """One soak from beginning to end."""

    def __init__(self, server: LocalServer, options: argparse.Namespace, folder: Path) -> None:
        self._server = server
        self._options = options
        self._folder = folder
        self._seconds = options.minutes * 60
        self._rng = random.Random(options.seed)
        self._journal = folder / "journal"
        self._paused_at_ms = 0
        self._problems: list[str] = []

    async def perform(self) -> int:
        """Run everything, and judge."""
        dsn, options = self._server.dsn, self._options
        arguments = ["--dsn", dsn, "--journal", str(self._journal), "--lease", str(options.lease)]
        async with PostgresWorkflowStore.connect(
            dsn, max_size=_SESSIONS_OF_CLIENT, server_settings={"application_name": "chaos-client"}
        ) as store:
            await store.ensure_schema()
            await install(dsn)
            self._runtime = WorkflowRuntime(store=store, workflows=WORKFLOWS, schedules=SCHEDULES)
            self._make_clients()
            with Workforce(worker.__name__, arguments, options.workers, self._folder, spared=1) as self._workforce:
                self._sampler = Sampler(dsn, lambda: self._workforce.pids, min(5.0, self._seconds / 10))
                self._chaos = self._make_chaos()
                left = await self._work()
                self._workforce.stop()
        return await self._judge(left)

    def _make_clients(self) -> None:
        options, seconds = self._options, self._seconds
        errands, orders = int(options.errands * seconds), int(options.orders * seconds)
        self._client = Client(self._runtime, errands, self._rng, between_starts_s=1 / options.errands)
        self._customer = Customer(self._runtime, orders, 1 / options.orders, self._rng)

    def _make_chaos(self) -> Chaos:
        options = self._options
        deeds = Deeds(
            kills=_count(options.kills, options.minutes),
            terminations=_count(options.terminations, options.minutes * 3),
            restarts=0,
            away_s=0.0,
            drains=_count(options.drains, options.minutes / 2),
            freezes=_count(options.freezes, options.minutes / 5),
            frozen_s=3 * options.lease,
        )
        steps = int(options.errands * self._seconds) * STEPS
        return Chaos(
            server=self._server,
            workforce=self._workforce,
            journal=self._journal,
            steps=steps,
            deeds=deeds,
            rng=self._rng,
        )

    async def _work(self) -> int:
        """Run clients and chaos, then wait for everything to end; return how much did not."""
        await self._runtime.materialize_schedules()
        watching = asyncio.create_task(self._sampler.watch())
        try:
            await self._disturb()
            await self._pause()
            return await self._until_all_ended()
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _disturb(self) -> None:
        try:
            async with asyncio.timeout(self._seconds + self._options.patience), asyncio.TaskGroup() as group:
                group.create_task(self._client.serve())
                group.create_task(self._customer.serve())
                group.create_task(self._chaos.wreak())
        except TimeoutError:
            self._problems.append(f"clients or chaos were still at work: {self._chaos.progress}")

    async def _pause(self) -> None:
        connection = await asyncpg.connect(self._server.dsn)
        try:
            self._paused_at_ms = await connection.fetchval(_NOW)
        finally:
            await connection.close()
        for schedule in SCHEDULES:
            await self._runtime.schedules.pause(schedule.id)

    async def _until_all_ended(self) -> int:
        connection = await asyncpg.connect(self._server.dsn)
        try:
            deadline = time.monotonic() + self._options.patience
            while left := int(await connection.fetchval(_UNFINISHED)):
                if time.monotonic() > deadline:
                    break
                self._workforce.check()
                await asyncio.sleep(_LOOK_S)
            await self._sampler.take(connection)
        finally:
            await connection.close()
        return left

    async def _judge(self, left: int) -> int:
        connection = await asyncpg.connect(self._server.dsn)
        try:
            await _until_sessions_are_gone(connection)
            deposition = await self._depose(connection)
        finally:
            await connection.close()
        evidence, course = self._errands(deposition), self._course(deposition)
        if left:
            self._problems.append(
                f"{left} runs or ticks had not ended {self._options.patience:g} s after the last start"
            )
        problems = self._problems + find_soak_problems(deposition)
        problems += find_problems(evidence) + find_health_problems(course)
        print_report(deposition, evidence, course, self._chaos, self._customer, self._client)
        for problem in problems[:_SHOWN_PROBLEMS]:
            print(f"PROBLEM: {problem}")
        print(f"soak: {len(deposition.heads)} runs, {self._options.minutes:g} minutes, {len(problems)} problems")
        return 1 if problems else 0

    async def _depose(self, connection: asyncpg.Connection) -> Deposition:
        heads = {head["run_id"]: dict(head) for head in await connection.fetch(_HEADS)}
        logs: dict[str, list[dict[str, Any]]] = {run_id: [] for run_id in heads}
        for event in await connection.fetch(_LOGS):
            logs.setdefault(event["run_id"], []).append(dict(event))
        return Deposition(
            schedules=SCHEDULES,
            chronicle=await read_chronicle(connection),
            paused_at_ms=self._paused_at_ms,
            patience_ms=int(self._options.lease * 2_000) + 2_000,
            heads=heads,
            logs=logs,
            ordered=self._customer.ordered,
            payments=[row["run_id"] for row in await connection.fetch(_PAYMENTS)],
            leftovers={what: await connection.fetchval(sql) for what, sql in _LEFTOVERS.items()},
        )

    def _errands(self, deposition: Deposition) -> Evidence:
        """Return the evidence about errands, on which the chaos verdict speaks."""
        errands = {run_id: head for run_id, head in deposition.heads.items() if run_id.startswith("errand-")}
        return Evidence(
            inputs=self._client.inputs,
            signals=self._client.signals,
            heads=errands,
            logs={run_id: deposition.logs[run_id] for run_id in errands},
            journal=read_journal(self._journal),
            killed=self._workforce.killed,
            outages=(),
            frozen=self._workforce.frozen,
        )

    def _course(self, deposition: Deposition) -> Course:
        begun_ms = min(entry.at_ms for entry in deposition.chronicle)
        latencies: defaultdict[int, list[float]] = defaultdict(list)
        for run_id, head in deposition.heads.items():
            if run_id.startswith("allow@") and head["finished_at"] is not None:
                latencies[(head["created_at"] - begun_ms) // 60_000].append(head["finished_at"] - head["created_at"])
        return Course(
            samples=self._sampler.samples,
            # One worker more: the sessions of one that was killed live until the server looks for them.
            max_sessions=(self._options.workers + 1) * _SESSIONS_PER_WORKER + _SESSIONS_OF_CLIENT + 1,
            latencies_ms=latencies,
            log=self._workforce.log.read_text(encoding="utf-8", errors="replace").splitlines(),
        )


async def _until_sessions_are_gone(connection: asyncpg.Connection) -> None:
    """Wait a moment until the server has noticed who has left; whatever is still there then is left over."""
    deadline = time.monotonic() + _GOODBYE_S
    while await connection.fetchval(_SESSIONS) and time.monotonic() < deadline:
        await asyncio.sleep(_LOOK_S)


def _count(given: int | None, usual: float) -> int:
    return max(1, round(usual)) if given is None else given


if __name__ == "__main__":
    sys.exit(main())
