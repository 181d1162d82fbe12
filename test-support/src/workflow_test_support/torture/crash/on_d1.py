"""A short story on real D1, which workerd serves: a step, a sleep, a signal, a business write, an approval.

The calls that are counted, and may kill, are the batches and statements that D1 gets.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from workflow_runtime import Context, TestClock, WorkflowExecutionStore, WorkflowRuntime, workflow
from workflow_runtime.store import Event
from workflow_store_d1 import D1PreparedStatement, D1Transaction, D1WorkflowStore
from workflow_test_support.servers.d1_server import d1_server
from workflow_test_support.servers.worker_database import WorkerD1Database, WorkerResult, WorkerStatement
from workflow_test_support.torture.crash.killing import Killer
from workflow_test_support.torture.crash.scenario import drive, note_step
from workflow_test_support.torture.journal import note

RUN = "parcel"
_BEGIN = datetime(2030, 1, 1, tzinfo=UTC)
_LIFETIME = timedelta(days=10)
"""Time between the clocks of two processes: every lease of the former one has run out."""

_url: list[str] = []
_opened: list[WorkerD1Database] = []


class KillingStatement(WorkerStatement):
    """A statement whose running may kill the process."""

    killer: Killer

    def bind(self, *values: Any) -> Self:
        bound = super().bind(*values)
        bound.killer = self.killer
        return bound

    async def all(self) -> WorkerResult:
        return await self.killer.around("all", super().all())

    async def run(self) -> WorkerResult:
        return await self.killer.around("run", super().run())


class KillingDatabase(WorkerD1Database):
    """A database whose calls may kill the process."""

    def __init__(self, url: str, killer: Killer) -> None:
        super().__init__(url, "DB")
        self._killer = killer

    def prepare(self, sql: str) -> KillingStatement:
        statement = KillingStatement(self, sql)
        statement.killer = self._killer
        return statement

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> list[WorkerResult]:
        return await self._killer.around("batch", super().batch(statements))


@contextmanager
def server() -> Iterator[None]:
    """Run workerd for all processes of the story."""
    with d1_server() as running:
        _url[:] = [running.url]
        yield


@asynccontextmanager
async def opened(folder: Path, killer: Killer) -> AsyncIterator[tuple[D1WorkflowStore, D1WorkflowStore]]:
    """Open the database twice: plainly, and so that its calls may kill. A new folder begins with an empty one."""
    plain, killing = WorkerD1Database(_url[0], "DB"), KillingDatabase(_url[0], killer)
    if not (folder / "begun").exists():
        await plain.empty()
        (folder / "begun").touch()
    _opened[:] = [plain]
    yield D1WorkflowStore(plain), D1WorkflowStore(killing)
    plain.close()
    killing.close()


async def weigh(item: str) -> str:
    note_step()
    return f"weighed {item}"


async def book(tx: D1Transaction, item: str) -> str:
    tx.add("INSERT INTO ledger (entry) VALUES (?1)", f"book {item}")
    return item


@workflow(id="parcel")
async def parcel(ctx: Context, item: str) -> list[Any]:
    weighed = await ctx.step(weigh, item)
    await ctx.sleep(timedelta(hours=1))
    paid = await ctx.wait_for_event("paid")
    booked = await ctx.transaction("book", book, item)
    approval = await ctx.approve("ship")
    return [weighed, paid, booked, approval.approved]


async def prepare(_: Path) -> None:
    await _opened[0].prepare("CREATE TABLE IF NOT EXISTS ledger (number INTEGER PRIMARY KEY, entry TEXT)").run()


async def play(store: WorkflowExecutionStore, process: int) -> None:
    """Do what the application does, from the top."""
    clock = TestClock(_BEGIN + process * _LIFETIME)
    runtime = WorkflowRuntime(store=store, workflows=[parcel], clock=clock)
    await runtime.start_run(parcel, "a", run_id=RUN)
    await drive(runtime, clock, timedelta(hours=2))
    await runtime.deliver_signal(RUN, "paid", {"by": "card"}, signal_id="first")
    note("acknowledged", run=RUN, delivery="first")
    await drive(runtime, clock, timedelta(minutes=1))
    await runtime.deliver_approval(RUN, "ship", approved=True)
    note("acknowledged", run=RUN, delivery="ship")
    await drive(runtime, clock, timedelta(minutes=1))


async def note_recorded_steps(store: WorkflowExecutionStore) -> None:
    """Write down which steps were recorded before this process did anything: none of them may run again."""
    for event in await store.read_events(run_id=RUN, limit=1_000):
        if event.kind == "step-completed":
            note("recorded", run=RUN, step=event.step_id)


async def outcome(store: WorkflowExecutionStore, _: Path) -> dict[str, Any]:
    """Describe how the story ended, in what every telling must share."""
    run = await store.load_run(run_id=RUN)
    assert run is not None
    events = await store.read_events(run_id=RUN, limit=1_000)
    assert [event.index for event in events] == list(range(run.next_index)), "the log has gaps"
    ledger = await _opened[0].prepare("SELECT number, entry FROM ledger ORDER BY number").all()
    return {
        "status": run.status,
        "output": run.output,
        "events": [[event.kind, event.step_id, _payload(event)] for event in events],
        "ledger": ledger.results,
    }


def _payload(event: Event) -> str | None:
    """Leave out when a sleep ends: that depends on which process began it."""
    return None if event.kind == "sleep-started" else event.payload


def find_problems(ended: Any, expected: Any, _: list[dict[str, Any]]) -> list[str]:
    """Return differences from the undisturbed story."""
    return [] if ended == expected else [f"another outcome: {ended}"]
