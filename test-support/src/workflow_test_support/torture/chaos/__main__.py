"""Runs of twenty steps on several worker processes over a real Postgres, under chaos.

Workers are killed, their sessions are terminated, and the server is restarted; or, with `--failover`, the primary of a
synchronous pair is killed and its standby takes over. Afterwards the database and a journal of what really ran must
agree that nothing was lost and nothing was recorded twice.

    python -m workflow_test_support.torture.chaos --runs 24
    python -m workflow_test_support.torture.chaos --runs 200 --workers 4 --failover
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import asyncpg
from workflow_runtime import WorkflowRuntime
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_pair import ServerPair
from workflow_test_support.servers.postgres_server import LocalServer
from workflow_test_support.torture.chaos import worker
from workflow_test_support.torture.client import Client
from workflow_test_support.torture.disturbance import Chaos, Deeds
from workflow_test_support.torture.errand import STEPS, errand
from workflow_test_support.torture.errand_verdict import Evidence, find_problems
from workflow_test_support.torture.journal import open_journal, read_journal
from workflow_test_support.torture.workforce import Workforce

_LOOK_S = 0.2
_SHOWN_PROBLEMS = 20
_HEADS = """
SELECT run_id, status, next_index, output::text AS output, lease_owner, lease_expires_at, due_at, crashes
FROM workflow_event_locks JOIN workflow_run_states USING (run_id)
ORDER BY run_id
"""
_LOGS = "SELECT run_id, event_index, kind, step_id, payload::text AS payload FROM workflow_events ORDER BY 1, 2"
_UNFINISHED = "SELECT count(*) FROM workflow_event_locks WHERE status NOT IN ('finished', 'errored', 'aborted', 'dead')"
_AWAY = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)


def main() -> int:
    options = _parse_options()
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        open_journal(Path(folder) / "journal")
        with ServerPair() if options.failover else LocalServer(durable=True) as server:
            return asyncio.run(_perform(server, options, Path(folder)))


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=24)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--kills", type=int, help="default: one for five runs")
    parser.add_argument("--terminations", type=int, help="default: one for two runs")
    parser.add_argument("--restarts", type=int, default=1, help="crash-like and orderly ones by turns")
    parser.add_argument("--away", type=float, default=0.0, help="seconds without a server at its last restart")
    parser.add_argument("--failover", action="store_true", help="a synchronous pair instead of restarts")
    parser.add_argument("--lease", type=float, default=3.0, help="seconds that a lease lasts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=600.0, help="say what is stuck after so many seconds")
    return parser.parse_args()


async def _perform(server: LocalServer | ServerPair, options: argparse.Namespace, folder: Path) -> int:
    journal, rng = folder / "journal", random.Random(options.seed)
    arguments = ["--dsn", server.dsn, "--journal", str(journal), "--lease", str(options.lease)]
    async with PostgresWorkflowStore.connect(
        server.dsn, max_size=5, server_settings={"application_name": "chaos-client"}
    ) as store:
        await store.ensure_schema()
        client = Client(WorkflowRuntime(store=store, workflows=[errand]), options.runs, rng)
        begun = time.monotonic()
        with Workforce(worker.__name__, arguments, options.workers, folder) as workforce:
            chaos = _chaos(server, workforce, journal, options, rng)
            if not await _finished(server.dsn, client, chaos, options):
                return 1
            workforce.stop()
    evidence = await _gather(server.dsn, client, chaos)
    return _judge(evidence, client, chaos, options, time.monotonic() - begun)


def _chaos(
    server: LocalServer | ServerPair,
    workforce: Workforce,
    journal: Path,
    options: argparse.Namespace,
    rng: random.Random,
) -> Chaos:
    deeds = Deeds(
        kills=options.runs // 5 if options.kills is None else options.kills,
        terminations=options.runs // 2 if options.terminations is None else options.terminations,
        restarts=options.restarts,
        away_s=options.away,
    )
    steps = options.runs * STEPS
    return Chaos(server=server, workforce=workforce, journal=journal, steps=steps, deeds=deeds, rng=rng)


async def _finished(dsn: str, client: Client, chaos: Chaos, options: argparse.Namespace) -> bool:
    """Run everything until every run has ended; if that takes too long, print what is stuck."""
    try:
        async with asyncio.timeout(options.timeout), asyncio.TaskGroup() as group:
            group.create_task(client.serve())
            group.create_task(chaos.wreak())
            group.create_task(_until_all_ended(dsn, client, options.runs))
    except TimeoutError:
        print(f"still at work after {options.timeout:g} s: {chaos.progress}", file=sys.stderr)
        async with asyncio.timeout(30):
            await _report_what_is_stuck(dsn, client)
        return False
    return True


async def _until_all_ended(dsn: str, client: Client, runs: int) -> None:
    while True:
        with suppress(*_AWAY):
            if len(client.inputs) == runs and not (await _fetch(dsn, _UNFINISHED))[0]["count"]:
                return
        await asyncio.sleep(_LOOK_S)


async def _report_what_is_stuck(dsn: str, client: Client) -> None:
    print(f"acknowledged: {len(client.inputs)} starts, {sum(client.signals.values())} signals", file=sys.stderr)
    for head in await _fetch(dsn, _HEADS):
        if head["status"] != "finished":
            print({key: value for key, value in head.items() if value is not None}, file=sys.stderr)


async def _fetch(dsn: str, sql: str) -> list[dict[str, Any]]:
    connection = await asyncpg.connect(dsn)
    try:
        return [dict(row) for row in await connection.fetch(sql)]
    finally:
        await connection.close()


async def _gather(dsn: str, client: Client, chaos: Chaos) -> Evidence:
    heads = {head["run_id"]: head for head in await _fetch(dsn, _HEADS)}
    logs: dict[str, list[dict[str, Any]]] = {run_id: [] for run_id in heads}
    for event in await _fetch(dsn, _LOGS):
        logs[event["run_id"]].append(event)
    return Evidence(
        inputs=client.inputs,
        signals=client.signals,
        heads=heads,
        logs=logs,
        journal=read_journal(chaos.journal),
        killed=chaos.workforce.killed,
        outages=chaos.outages,
    )


def _judge(evidence: Evidence, client: Client, chaos: Chaos, options: argparse.Namespace, seconds: float) -> int:
    problems = find_problems(evidence)
    for problem in problems[:_SHOWN_PROBLEMS]:
        print(f"PROBLEM: {problem}")
    causes = [cause for _, _, cause in evidence.unrecorded]
    away = ", ".join(f"{end - begun:.2f} s" for begun, end in chaos.outages)
    print(
        f"chaos runs: {len(evidence.heads)} runs, {len(evidence.recorded)} steps recorded, "
        f"{sum(map(len, evidence.executions.values()))} executed "
        f"({causes.count('kill')} cut off by a kill, {causes.count('outage')} by an outage), "
        f"{sum(evidence.signals.values())} signals ({dict(client.answers)}, {client.repeats} calls repeated), "
        f"{options.workers} workers, {len(evidence.killed)} kills, {chaos.terminated} sessions terminated, "
        f"{len(chaos.outages)} {'failover' if options.failover else 'restarts'} ({away}), "
        f"{len(problems)} problems, {seconds:.1f} s"
    )
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
