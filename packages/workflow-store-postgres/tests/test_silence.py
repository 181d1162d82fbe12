"""Connections that stay open and bring nothing: a pulled cable, a firewall, a server that stands still.

Whatever the store waits for then, it does not wait for long, and works again as soon as the server does.
"""

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from workflow_runtime import Context, StoreUnavailableError, WorkflowRuntime, workflow
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import NewEvent, RunToCreate, SignalToDeliver, TransactionWrite
from workflow_store_postgres import PostgresWorkflowStore
from workflow_test_support.relays.silent_relay import SilentRelay, silent_relay_to
from workflow_test_support.servers.database_pool import DatabasePool
from workflow_test_support.servers.postgres_server import LocalServer

pytestmark = pytest.mark.real_time

BRIEF = timedelta(milliseconds=400)
BRIEF_S = BRIEF.total_seconds()
PATIENCE_S = 5.0
SLACK_S = 4.0
"""What a loaded machine adds at most, and a second that the server has for confirming a cancel."""
ONE = JsonText("1")
NEW: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": "create", "now_ms": 1}
HELD: dict[str, Any] = {"owner": "w", "lease_ms": 10_000}
CLAIM: dict[str, Any] = {**HELD, "now_ms": 100, "limit": 10}

Open = Callable[..., AbstractAsyncContextManager[PostgresWorkflowStore]]


@pytest.fixture
def relay(dsn: str) -> Iterator[SilentRelay]:
    with silent_relay_to(dsn) as relay:
        yield relay


@asynccontextmanager
async def users_pool(
    relay: SilentRelay, timeout: float = PATIENCE_S, **options: Any
) -> AsyncIterator[PostgresWorkflowStore]:
    pool = await asyncpg.create_pool(relay.dsn, min_size=0, max_size=3, timeout=timeout)
    try:
        store = PostgresWorkflowStore(pool, **{"statement_timeout": BRIEF, **options})
        yield store
        await store.close()
    finally:
        pool.terminate()  # its own close() waits for the server, which is its user's affair


@asynccontextmanager
async def own_pool(
    relay: SilentRelay, timeout: float = PATIENCE_S, **options: Any
) -> AsyncIterator[PostgresWorkflowStore]:
    options = {"statement_timeout": BRIEF, "timeout": timeout, **options}
    async with PostgresWorkflowStore.connect(relay.dsn, **options) as store:
        yield store


@pytest.fixture(params=[own_pool, users_pool], ids=["own-pool", "users-pool"])
def open_behind(request: pytest.FixtureRequest) -> Open:
    """Open a store behind a relay."""
    opening: Open = request.param
    return opening


@pytest.fixture
def open_store(open_behind: Open, relay: SilentRelay) -> Open:
    """Open a store behind the relay."""
    return partial(open_behind, relay)


class Stopwatch:
    """How long a block took, whatever it raised."""

    seconds = 0.0

    def __enter__(self) -> "Stopwatch":
        self._started = time.monotonic()
        return self

    def __exit__(self, *error: object) -> None:
        self.seconds = time.monotonic() - self._started


async def start(store: PostgresWorkflowStore, run_id: str) -> str:
    created = await store.create_run(run_id=run_id, **NEW, **HELD)
    assert created.kind == "created"
    assert created.claim is not None
    return created.claim.lease.token


async def answered(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until the store is there again."""
    async with asyncio.timeout(30):
        while True:
            with suppress(StoreUnavailableError):
                return await call()
            await asyncio.sleep(0.01)


async def all_of(case: Callable[[str], Awaitable[Any]], names: Iterable[str]) -> None:
    """Take all cases at once; an error names its case."""

    async def named(name: str) -> None:
        try:
            await case(name)
        except BaseException as error:
            error.add_note(f"in the case {name!r}")
            raise

    async with asyncio.TaskGroup() as cases:
        for name in names:
            cases.create_task(named(name))


def silence(relay: SilentRelay, which: str) -> None:
    relay.drops_questions = which in {"both", "questions"}
    relay.drops_answers = which in {"both", "answers"}


async def append(store: PostgresWorkflowStore, run_id: str, token: str) -> Any:
    return await store.append_events(
        run_id=run_id,
        lease_token=token,
        operation_id="o",
        expected_next_index=0,
        events=[NewEvent(kind="step", payload=ONE)],
        now_ms=5,
        lease_ms=10_000,
    )


CALLS: dict[str, Callable[[PostgresWorkflowStore, str, str], Awaitable[Any]]] = {
    "read_clock": lambda store, run_id, token: store.read_clock(),
    "check_schema": lambda store, run_id, token: store.check_schema(),
    "ensure_schema": lambda store, run_id, token: store.ensure_schema(),
    "claim_pending_runs": lambda store, run_id, token: store.claim_pending_runs(**CLAIM),
    "claim_due_timers": lambda store, run_id, token: store.claim_due_timers(**CLAIM),
    "append_events": append,
    "heartbeat_run_lease": lambda store, run_id, token: store.heartbeat_run_lease(
        run_id=run_id, lease_token=token, lease_ms=10_000, now_ms=5
    ),
    "heartbeat_run_leases": lambda store, run_id, token: store.heartbeat_run_leases(
        leases=[(run_id, token)], lease_ms=10_000, now_ms=5
    ),
    "create_runs": lambda store, run_id, token: store.create_runs(
        runs=[
            RunToCreate(run_id="new", workflow_id="w", workflow_version="1", input=ONE, operation_id="o"),
            RunToCreate(run_id=run_id, workflow_id="w", workflow_version="1", input=ONE, operation_id="o"),
        ],
        now_ms=5,
    ),
    "deliver_signals": lambda store, run_id, token: store.deliver_signals(
        signals=[SignalToDeliver(run_id=run_id, signal_id="s", name="go", payload=ONE)], now_ms=5
    ),
    "deliver_signal": lambda store, run_id, token: store.deliver_signal(
        run_id=run_id, signal_id="s", name="go", payload=ONE, now_ms=5
    ),
    "load_run": lambda store, run_id, token: store.load_run(run_id=run_id),
}


@pytest.mark.parametrize("which", ["both", "questions", "answers"])
async def test_calls_fail_in_time_and_work_again(relay: SilentRelay, open_store: Open, which: str) -> None:
    """Each on a store of its own, all at once: most of the time nothing happens."""
    async with AsyncExitStack() as stores:
        calls = {}
        for verb, call in CALLS.items():
            store = await stores.enter_async_context(open_store())
            calls[verb] = partial(call, store, verb, await start(store, verb))

        async def fails_in_time(verb: str) -> None:
            with Stopwatch() as watch, pytest.raises(StoreUnavailableError, match="did not answer"):
                await calls[verb]()
            assert BRIEF_S <= watch.seconds < BRIEF_S + SLACK_S, verb

        silence(relay, which)
        await all_of(fails_in_time, CALLS)
        relay.restore()
        await all_of(lambda verb: answered(calls[verb]), CALLS)


@pytest.mark.parametrize("which", ["both", "answers"])
async def test_cancelled_call_returns_at_once(relay: SilentRelay, open_store: Open, which: str) -> None:
    async with open_store(statement_timeout=timedelta(seconds=60)) as store:
        await store.read_clock()
        silence(relay, which)
        with Stopwatch() as watch, pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await store.read_clock()
        assert watch.seconds < 0.3 + SLACK_S
        relay.restore()
        assert await asyncio.wait_for(store.read_clock(), SLACK_S) > 0, "the silent connection was used again"


async def test_many_calls_at_once_on_few_connections(relay: SilentRelay, open_store: Open) -> None:
    async with open_store(acquire_timeout=timedelta(seconds=20)) as store:
        await asyncio.gather(*(store.read_clock() for _ in range(5)))
        relay.fall_silent()
        with Stopwatch() as watch:
            answers = await asyncio.gather(*(store.read_clock() for _ in range(8)), return_exceptions=True)
        assert all(isinstance(answer, StoreUnavailableError) for answer in answers)
        assert watch.seconds < 15
        relay.restore()
        await answered(store.read_clock)


@pytest.mark.parametrize("moment", ["before", "falls_silent_at", "loses_answer_to"])
async def test_silence_before_or_in_the_handshake(relay: SilentRelay, open_store: Open, moment: str) -> None:
    if moment == "before":
        relay.fall_silent()
    else:
        setattr(relay, moment, b"user\0postgres\0")
    with Stopwatch() as watch, pytest.raises(StoreUnavailableError, match="did not answer"):
        async with open_store(timeout=BRIEF_S) as store:
            await store.read_clock()
    assert watch.seconds < BRIEF_S + SLACK_S
    relay.restore()
    async with open_store() as store:
        assert await store.read_clock() > 0


@pytest.mark.parametrize("moment", ["falls_silent_at", "loses_answer_to"])
async def test_silence_at_a_commit(relay: SilentRelay, open_store: Open, moment: str, dsn: str) -> None:
    """What became of it is known by the operation, and it is done once."""

    async def sell(tx: Any) -> TransactionWrite:
        await tx.execute("INSERT INTO business VALUES ('sale')")
        return TransactionWrite(
            expected_next_index=0,
            events=(NewEvent(kind="step", payload=ONE),),
            now_ms=5,
            lease_ms=10_000,
            taken_inbox=(),
            set_timers=(),
            removed_timers=(),
        )

    async with open_store() as store:
        token = await start(store, "a")

        async def commit() -> Any:
            return await store.append_in_transaction(run_id="a", lease_token=token, operation_id="o", work=sell)

        setattr(relay, moment, b"COMMIT")
        with Stopwatch() as watch, pytest.raises(StoreUnavailableError):
            await commit()
        assert watch.seconds < BRIEF_S + 1 + SLACK_S
        relay.restore()
        assert (await answered(commit)).next_index == 1
    connection = await asyncpg.connect(dsn)
    assert await connection.fetchval("SELECT count(*) FROM business") == 1
    await connection.close()


async def test_function_of_a_transaction_that_waits_in_vain_is_cancelled_at_once(
    relay: SilentRelay, open_store: Open
) -> None:
    async def wait(tx: Any) -> TransactionWrite:
        relay.fall_silent()
        await tx.fetchval("SELECT 1")
        raise AssertionError("there was an answer")

    async with open_store() as store:
        token = await start(store, "a")
        with Stopwatch() as watch, pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await store.append_in_transaction(run_id="a", lease_token=token, operation_id="o", work=wait)
        assert watch.seconds < 0.3 + SLACK_S
        relay.restore()
        await answered(store.read_clock)


@pytest.mark.parametrize("which", ["both", "questions", "answers"])
async def test_store_closes_in_time(relay: SilentRelay, open_store: Open, which: str) -> None:
    async with open_store() as store:
        await asyncio.gather(*(start(store, f"r{number}") for number in range(4)))
        silence(relay, which)
        waiting = asyncio.create_task(store.read_clock())
        await asyncio.to_thread(relay.wait_until_silent)
        with Stopwatch() as watch:
            await store.close()
        with suppress(StoreUnavailableError):
            await waiting
    assert watch.seconds < 3 + SLACK_S


async def test_listener_ends_in_time_and_listens_again(databases: DatabasePool, open_behind: Open) -> None:
    """Whatever it did last. Each on a database of its own, as notices reach everybody who listens; all at once."""

    async def ends_in_time(moment: str) -> None:
        async with databases.database() as dsn:
            with silent_relay_to(dsn) as relay:
                async with open_behind(relay) as store:
                    seconds = await seconds_until_it_ended(store, relay, moment)
        assert seconds < 3 + SLACK_S

    await all_of(ends_in_time, ["LISTEN", "UNLISTEN", "pg_notify", "nothing in particular"])


async def seconds_until_it_ended(store: PostgresWorkflowStore, relay: SilentRelay, moment: str) -> float:
    """Listen, again if the relay falls silent at the first try, then end it in silence."""
    await store.read_clock()
    if moment in {"LISTEN", "pg_notify"}:
        relay.falls_silent_at = moment.encode()
    async with store.listen(lambda notice: None) as listening:
        if moment in {"LISTEN", "pg_notify"}:
            await asyncio.to_thread(relay.wait_until_silent)
            relay.restore()
        async with asyncio.timeout(30):
            while not listening.live:
                await asyncio.sleep(0.01)
        if moment == "UNLISTEN":
            relay.falls_silent_at = moment.encode()
        else:
            relay.fall_silent()
        watch = Stopwatch()
        watch.__enter__()
    watch.__exit__()
    return watch.seconds


async def test_pool_whose_own_function_never_returns(relay: SilentRelay) -> None:
    """asyncpg closes a connection whose `init` was cut short, and waits for the server without an end."""

    async def init(connection: asyncpg.Connection) -> None:
        relay.fall_silent()
        await connection.execute("SELECT 1")

    async with asyncio.timeout(20):
        pool = await asyncpg.create_pool(relay.dsn, min_size=0, max_size=2, init=init)
        store = PostgresWorkflowStore(pool, acquire_timeout=BRIEF)
        with Stopwatch() as watch, pytest.raises(StoreUnavailableError, match="no free connection"):
            await store.read_clock()
        assert watch.seconds < BRIEF_S + SLACK_S
        await store.close()
        pool.terminate()


async def test_answer_that_came_while_the_event_loop_was_blocked_counts(open_store: Open) -> None:
    """It takes several turns of the event loop to read it."""
    async with open_store() as store:
        await store.read_clock()
        connections = store._sender.connections
        reading = asyncio.create_task(connections.fetch("SELECT repeat('x', 3000000) AS text FROM pg_sleep(0.1)", ()))
        await asyncio.sleep(0.03)  # it is sent, and the server works on it
        time.sleep(3 * BRIEF_S)  # the subject
        [row] = await reading
        assert len(row["text"]) == 3_000_000


# At default settings, in seconds. What is measured is printed.


async def test_default_call_under_a_timeout_of_three_seconds(
    dsn: str, record_property: Callable[[str, object], None]
) -> None:
    async def ends_in_time(which: str) -> None:
        with silent_relay_to(dsn) as relay:
            async with PostgresWorkflowStore.connect(relay.dsn) as store:
                await store.read_clock()
                silence(relay, which)
                with Stopwatch() as watch, pytest.raises(TimeoutError):
                    async with asyncio.timeout(3):
                        await store.load_run(run_id="a")
                record_property(f"{which}: seconds", round(watch.seconds, 2))
                assert watch.seconds < 4.5
                with Stopwatch() as unbounded, pytest.raises(StoreUnavailableError):
                    await store.load_run(run_id="a")
                record_property(f"{which}: seconds without a timeout", round(unbounded.seconds, 2))
                assert unbounded.seconds < 7.5

    await all_of(ends_in_time, ["both", "answers"])


async def test_default_workers_recover_and_stop(
    databases: DatabasePool, record_property: Callable[[str, object], None]
) -> None:
    """A busy worker finds the silence out by what it writes, an idle one by trying where it listens.

    All of them wait for half a minute, so they do it at once.
    """

    async def recovers_and_stops(case: str) -> None:
        busy, which = case.startswith("busy"), case.split()[1]
        async with databases.database() as dsn:
            with silent_relay_to(dsn) as relay:
                seconds = await disturbed_worker(dsn, relay, which, busy=busy)
        print(case, {what: round(figure, 1) for what, figure in seconds.items()})
        record_property(f"{case}: seconds", seconds)
        assert seconds["recovery"] < 35
        assert seconds["stop"] < (45 if busy else 15)
        assert seconds["close"] < 6

    await all_of(recovers_and_stops, ["busy both", "busy answers", "idle both", "idle answers"])


async def disturbed_worker(dsn: str, relay: SilentRelay, which: str, *, busy: bool) -> dict[str, float]:
    """Run a worker behind the relay, silence it twice, and return how long it took to recover, stop and close."""
    ran: set[str] = set()

    @workflow(id="jobs")
    async def jobs(ctx: Context, name: str) -> None:
        async def note() -> None:
            ran.add(name)

        for number in range(1000 if name == "ticking" else 1):
            await ctx.step.options(id=f"note {number}")(note)
            if name == "ticking":
                await ctx.step.options(id=f"pause {number}")(partial(asyncio.sleep, 0.1))

    async def until_ran(name: str) -> None:
        while name not in ran:
            await asyncio.sleep(0.01)

    stop = asyncio.Event()
    async with (
        asyncio.timeout(120),
        PostgresWorkflowStore.connect(dsn) as outside,
        PostgresWorkflowStore.connect(relay.dsn) as store,
    ):
        client = WorkflowRuntime(store=outside, workflows=[jobs])
        runtime = WorkflowRuntime(store=store, workflows=[jobs])
        working = asyncio.create_task(runtime.work(stop=stop, handle_signals=False))
        first = await client.start_run(jobs, "ticking" if busy else "first")
        await (until_ran("ticking") if busy else first.result())
        silence(relay, which)
        await asyncio.sleep(3)
        relay.restore()
        with Stopwatch() as recovery:
            await (await client.start_run(jobs, "second")).result()
        silence(relay, which)
        await asyncio.sleep(1)
        with Stopwatch() as stopping:
            stop.set()
            await working
        with Stopwatch() as closing:
            await store.close()
    return {"recovery": recovery.seconds, "stop": stopping.seconds, "close": closing.seconds}


async def test_server_that_stands_still() -> None:
    """SIGSTOP: the machine's kernel answers for it, and it says nothing."""
    with LocalServer() as server:
        async with PostgresWorkflowStore.connect(server.dsn, statement_timeout=BRIEF) as store:
            await store.ensure_schema()
            token = await start(store, "a")
            processes = await processes_of(server)
            send(signal.SIGSTOP, processes)
            try:
                for _ in range(2):  # on a connection that is there, and on a new one
                    with Stopwatch() as watch, pytest.raises(StoreUnavailableError):
                        await append(store, "a", token)
                    assert watch.seconds < 2 * BRIEF_S + SLACK_S
            finally:
                send(signal.SIGCONT, processes)
            assert (await answered(lambda: append(store, "a", token))).next_index == 1
            assert len(await store.read_events(run_id="a", limit=9)) == 1


async def processes_of(server: LocalServer) -> list[int]:
    """Give those that work, and the one that starts others."""
    connection = await asyncpg.connect(server.dsn)
    pids = [row["pid"] for row in await connection.fetch("SELECT pid FROM pg_stat_activity")]
    folder = await connection.fetchval("SHOW data_directory")
    await connection.close()
    return [*pids, int((Path(folder) / "postmaster.pid").read_text().splitlines()[0])]


def send(number: signal.Signals, processes: list[int]) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)
