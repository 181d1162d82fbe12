"""What it brings, and costs, that writes share statements on PostgreSQL: each kind of write, with and without.

    python benchmarks/postgres_combining.py
    python benchmarks/postgres_combining.py --rounds 3 --at-once 1 64

Some callers make writes of one kind to runs of their own, one after another, straight on a store; then runs take steps
through the runtime. Both settings take turns in one process, on the same server. A line has the rate, the median time
of a call and the 99th percentile without combining, the ratios with it, and the CPU time of this process for a call.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Awaited, NewEvent
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.servers.postgres_server import LocalServer

DURABLE = ("fsync=on", "synchronous_commit=on", "full_page_writes=on")
CONNECTIONS, ROUNDS, AT_ONCE = 16, 5, (1, 4, 8, 16, 64)
FEW, MANY, STEPS = 300, 1_500, 10
PAYLOAD = JsonText('{"text":"' + "x" * 286 + '"}')
EVENTS = [NewEvent(kind="event", step_id="step", payload=PAYLOAD)]
AWAITED = [Awaited(kind="signal", name="go", step_id="wait")]
LEASE_MS = 600_000

Call = Callable[[], Awaitable[object]]
Held = tuple[str, str]
"""A run and the token of its lease."""


@dataclass(frozen=True, slots=True)
class Pass:
    """What one pass took."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


async def measure(calls: Iterator[Call], at_once: int, per_call: int = 1) -> Pass:
    """Make calls, so many at once; each counts for as many as it says."""
    took: list[float] = []

    async def some() -> None:
        for call in calls:
            began = time.perf_counter()
            await call()
            took.append((time.perf_counter() - began) / per_call)

    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(some() for _ in range(at_once)))
    count, took = len(took) * per_call, sorted(took)
    return Pass(
        rate=count / (time.perf_counter() - began),
        p50_ms=took[len(took) // 2] * 1e3,
        p99_ms=took[int(len(took) * 0.99)] * 1e3,
        cpu_us=(time.process_time() - cpu) / count * 1e6,
    )


numbers = itertools.count()


async def work() -> str:
    return "x" * 286


@workflow(id="steps")
async def steps(ctx: Context, count: int) -> None:
    for _ in range(count):
        await ctx.step(work)


class Kinds:
    """The kinds of writes, on one store. The runs that they are about are made on another one."""

    def __init__(self, store: PostgresWorkflowStore, maker: PostgresWorkflowStore) -> None:
        self._store = store
        self._maker = maker
        self._runtime = WorkflowRuntime(store=store, workflows=[steps])

    async def passes(self, at_once: int) -> dict[str, Pass]:
        """Measure each kind."""
        count = FEW if at_once == 1 else MANY
        held = [await self._start(self._maker) for _ in range(count)]
        waiting = [await self._start(self._maker) for _ in range(count)]
        return {
            "start": await measure((lambda: self._start(self._store) for _ in range(count)), at_once),
            "append": await measure((self._append(run, 0) for run in held), at_once),
            "pause": await measure((self._pause(run) for run in waiting), at_once),
            "signal": await measure((self._signal(run) for run in waiting), at_once),
            "end": await measure((self._end(run) for run in held), at_once),
            "step": await measure((self._run for _ in range(count // STEPS)), at_once, STEPS),
        }

    async def _start(self, store: PostgresWorkflowStore) -> Held:
        number = next(numbers)
        created = await store.create_run(
            run_id=f"run-{number}", workflow_id="w", workflow_version="1", input=PAYLOAD, operation_id=f"{number}",
            now_ms=1, owner="me", lease_ms=LEASE_MS,
        )  # fmt: skip
        assert created.kind == "created"
        assert created.claim is not None
        return created.run.run_id, created.claim.lease.token

    def _append(self, run: Held, index: int) -> Call:
        return lambda: self._store.append_events(
            run_id=run[0], lease_token=run[1], operation_id="append", expected_next_index=index, events=EVENTS,
            now_ms=2, lease_ms=LEASE_MS,
        )  # fmt: skip

    def _pause(self, run: Held) -> Call:
        return lambda: self._store.mark_run_paused(
            run_id=run[0], lease_token=run[1], operation_id="pause", expected_next_index=0, seen_inbox_seq=0,
            now_ms=2, events=EVENTS, awaited=AWAITED,
        )  # fmt: skip

    def _signal(self, run: Held) -> Call:
        return lambda: self._store.deliver_signal(
            run_id=run[0], signal_id="signal", name="go", payload=PAYLOAD, now_ms=3
        )

    def _end(self, run: Held) -> Call:
        return lambda: self._store.mark_run_finished(
            run_id=run[0], lease_token=run[1], operation_id="end", expected_next_index=1, output=PAYLOAD, now_ms=3,
            events=EVENTS,
        )  # fmt: skip

    async def _run(self) -> None:
        await (await self._runtime.run_here(steps, STEPS)).result()


def median(passes: Sequence[Pass]) -> Pass:
    columns = zip(*((one.rate, one.p50_ms, one.p99_ms, one.cpu_us) for one in passes), strict=True)
    return Pass(*map(statistics.median, columns))


def report(kind: str, at_once: int, apart: Pass, together: Pass) -> None:
    print(
        f"{kind:<7}{at_once:>3} at once: {apart.rate:7,.0f} a second x {together.rate / apart.rate:4.2f}   "
        f"median {apart.p50_ms:5.2f} ms x {together.p50_ms / apart.p50_ms:4.2f}   "
        f"p99 {apart.p99_ms:5.2f} ms x {together.p99_ms / apart.p99_ms:4.2f}   "
        f"CPU {apart.cpu_us:3.0f} us, {together.cpu_us:3.0f} us",
        flush=True,
    )


async def main(rounds: int, at_onces: Sequence[int]) -> None:
    async with AsyncExitStack() as stack:
        server = stack.enter_context(LocalServer(*DURABLE))
        stores = {
            combine: await stack.enter_async_context(
                PostgresWorkflowStore.connect(server.dsn, max_size=CONNECTIONS, combine=combine)
            )
            for combine in (False, True)
        }
        await stores[False].ensure_schema()
        kinds = {combine: Kinds(store, stores[True]) for combine, store in stores.items()}
        for at_once in at_onces:
            taken: dict[bool, list[dict[str, Pass]]] = {False: [], True: []}
            for number in range(rounds + 1):
                for combine in (number % 2 == 0, number % 2 == 1):
                    taken[combine].append(await kinds[combine].passes(at_once))
            for kind in taken[False][0]:
                # The first round prepares statements.
                apart, together = (median([one[kind] for one in taken[combine][1:]]) for combine in (False, True))
                report(kind, at_once, apart, together)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Writes that share statements, and the same without.")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds of each (default 5)")
    parser.add_argument("--at-once", type=int, nargs="+", default=AT_ONCE, help="callers (default 1 4 8 16 64)")
    given = parser.parse_args()
    asyncio.run(main(given.rounds, given.at_once))
