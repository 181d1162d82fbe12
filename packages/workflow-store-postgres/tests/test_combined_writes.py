"""Writes of many runs that go as one statement: each has its own fence, its own answer, and its own failure."""

import asyncio
import gc
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

import asyncpg
import pytest
from workflow_runtime.errors import ConfigurationError, LeaseLostError, LogConflictError, StoreUnavailableError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Appended, Awaited, NewEvent, Paused, Timer, WorkNotice
from workflow_runtime.store.values import CheckedEvent
from workflow_store_postgres import PostgresWorkflowStore, combined_writes

ONE = JsonText("1")
Connect = Callable[..., Awaitable[PostgresWorkflowStore]]
MANY = {
    "append_events_to_many", "mark_runs_ended", "mark_runs_paused", "start_runs_together", "deliver_signals"
}  # fmt: skip


@pytest.fixture(autouse=True)
def one_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second write that is under way gathers already."""
    monkeypatch.setattr(combined_writes, "ALONE", 1)


class Sent:
    """The statements that a store sends, and how many runs those for many write to."""

    def __init__(self, store: PostgresWorkflowStore) -> None:
        self.names: Counter[str] = Counter()
        self.runs: list[int] = []
        """Numbers of runs in each statement for many."""
        self.after: Callable[[str], Awaitable[None]] | None = None
        self._rows = store._sender.rows
        store._sender.rows = self._send  # type: ignore[method-assign]  # every statement goes through here

    async def _send(self, name: str, *values: Any) -> Sequence[Any]:
        self.names[name] += 1
        if name in MANY:
            self.runs.append(len(values[0]))
        rows = await self._rows(name, *values)
        if self.after is not None:
            await self.after(name)
        return rows


async def begin(store: PostgresWorkflowStore, *run_ids: str) -> dict[str, str]:
    """Create runs and claim them. Return their tokens."""
    tokens = {}
    for run_id in run_ids:
        answer = await store.create_run(
            run_id=run_id, workflow_id="w", workflow_version="1", input=ONE, operation_id="create", now_ms=1,
            owner="me", lease_ms=10_000,
        )  # fmt: skip
        assert answer.kind == "created"
        assert answer.claim is not None
        tokens[run_id] = answer.claim.lease.token
    return tokens


def append(store: PostgresWorkflowStore, run_id: str, token: str, index: int = 0, **more: Any) -> Awaitable[Appended]:
    given: dict[str, Any] = {"operation_id": f"op-{index}", "events": [NewEvent(kind="k", step_id="s", payload=ONE)]}
    return store.append_events(
        run_id=run_id, lease_token=token, expected_next_index=index, now_ms=2, lease_ms=10_000, **given | more
    )


async def length(store: PostgresWorkflowStore, run_id: str) -> int:
    return len(await store.read_events(run_id=run_id, limit=100))


def names(count: int) -> list[str]:
    return [f"run-{number}" for number in range(count)]


async def test_appends_at_once_take_few_statements(connect: Connect) -> None:
    """The first goes alone, since nothing is under way; the others follow together."""
    store = await connect()
    tokens = await begin(store, *names(40))
    sent = Sent(store)
    answers = await asyncio.gather(*(append(store, run_id, token) for run_id, token in tokens.items()))
    assert {answer.next_index for answer in answers} == {1}
    assert {answer.lease_expires_at_ms for answer in answers} == {10_002}
    assert sent.names == {"append_plain": 1, "append_events_to_many": 1}
    assert sent.runs == [39]
    for run_id in tokens:
        [event] = await store.read_events(run_id=run_id, limit=10)
        assert (event.index, event.kind, event.step_id, event.payload, event.created_at_ms) == (0, "k", "s", ONE, 2)


async def test_ends_at_once_take_few_statements(connect: Connect) -> None:
    """Each with its own end: an output, an error, a reason, and what becomes of the timers."""
    store = await connect()
    tokens = await begin(store, *names(12))
    for run_id, token in tokens.items():
        await append(store, run_id, token, events=[], set_timers=[Timer(timer_id="t", fire_at_ms=9)])
    sent = Sent(store)

    def end(number: int, run_id: str) -> Awaitable[None]:
        common: dict[str, Any] = {"run_id": run_id, "lease_token": tokens[run_id], "operation_id": "end", "now_ms": 3}
        common |= {"expected_next_index": 0, "events": [NewEvent(kind="end")] * (number % 3)}
        if number % 3 == 0:
            return store.mark_run_finished(output=JsonText(str(number)), **common)
        how: dict[str, Any] = {"aborted": number % 3 == 1, "parked": number % 3 == 2}
        return store.mark_run_errored(error=JsonText(str(number)), reason=f"why {number}", **how, **common)

    await asyncio.gather(*(end(number, run_id) for number, run_id in enumerate(tokens)))
    assert sent.names == {"mark_run_ended": 1, "mark_runs_ended": 1}
    for number, run_id in enumerate(tokens):
        execution = await store.load_execution(run_id=run_id)
        assert execution is not None
        run, text = execution.run, JsonText(str(number))
        assert run.status == ("finished", "aborted", "dead")[number % 3]
        assert (run.output, run.error) == ((text, None) if number % 3 == 0 else (None, text))
        assert run.reason == (None if number % 3 == 0 else f"why {number}")
        assert (run.finished_at_ms, run.next_index, len(execution.history)) == (3, number % 3, number % 3)
        assert len(execution.timers) == (1 if run.status == "dead" else 0)


async def test_without_combining_each_is_sent_alone(connect: Connect) -> None:
    store = await connect(combine=False)
    tokens = await begin(store, *names(10))
    sent = Sent(store)
    await asyncio.gather(*(append(store, run_id, token) for run_id, token in tokens.items()))
    assert sent.names == {"append_plain": 10}


async def test_a_failure_of_one_is_not_the_others(connect: Connect) -> None:
    """A lost lease, a wrong length, a repeat: each gets its own answer, the others are written."""
    store = await connect()
    tokens = await begin(store, *names(8))
    await append(store, "run-3", tokens["run-3"])
    sent = Sent(store)
    calls = [append(store, run_id, tokens[run_id]) for run_id in ("run-0", "run-4", "run-5")]
    answers: list[Any] = await asyncio.gather(
        *calls,
        append(store, "run-1", "not its token"),
        append(store, "run-2", tokens["run-2"], 7),
        append(store, "run-3", tokens["run-3"]),
        append(store, "nobody", "token"),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers] == [
        Appended, Appended, Appended, LeaseLostError, LogConflictError, Appended, LeaseLostError
    ]  # fmt: skip
    assert sent.names["append_events_to_many"] >= 1
    assert [await length(store, run_id) for run_id in names(6)] == [1, 0, 0, 1, 1, 1]


async def test_two_writes_of_one_run_never_share_a_statement(connect: Connect) -> None:
    """The second one is a driver's that has lost its lease, or a caller's that was given up: one of them is written."""
    store = await connect()
    tokens = await begin(store, *names(6))
    twice = [append(store, "run-1", tokens["run-1"], operation_id=f"op-{number}") for number in range(2)]
    answers: list[Any] = await asyncio.gather(
        append(store, "run-0", tokens["run-0"]),
        *twice,
        *(append(store, run_id, tokens[run_id]) for run_id in names(6)[2:]),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers[1:3]) == ["Appended", "LogConflictError"]
    assert [await length(store, run_id) for run_id in tokens] == [1] * 6


@pytest.mark.real_time
async def test_nobody_waits_for_a_head_that_somebody_has_locked(connect: Connect, database: asyncpg.Connection) -> None:
    """The run whose head is locked waits, alone; the others are answered."""
    store = await connect()
    tokens = await begin(store, *names(10))
    async with database.transaction():
        await database.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = 'run-5' FOR UPDATE")
        calls = {run_id: asyncio.ensure_future(append(store, run_id, token)) for run_id, token in tokens.items()}
        others = [call for run_id, call in calls.items() if run_id != "run-5"]
        await asyncio.wait_for(asyncio.gather(*others), 4)
        assert not calls["run-5"].done()
    assert (await asyncio.wait_for(calls["run-5"], 4)).next_index == 1


@pytest.mark.real_time
async def test_locked_heads_hold_up_nobody_else_however_many(connect: Connect, database: asyncpg.Connection) -> None:
    """Each of those who wait has a connection; the others share what is left."""
    store = await connect(max_size=6)
    tokens = await begin(store, *names(10))
    locked = names(4)
    async with database.transaction():
        await database.execute("SELECT 1 FROM workflow_event_locks WHERE run_id = ANY($1) FOR UPDATE", locked)
        waiting = []
        for run_id in locked:  # one after the other, as runs end their steps
            waiting.append(asyncio.ensure_future(append(store, run_id, tokens[run_id])))
            await asyncio.sleep(0.05)
        others = names(10)[4:]
        for index in range(3):
            calls = [append(store, run_id, tokens[run_id], index) for run_id in others]
            await asyncio.wait_for(asyncio.gather(*calls), 2)
        assert not any(call.done() for call in waiting)
    answers = await asyncio.wait_for(asyncio.gather(*waiting), 4)
    assert {answer.next_index for answer in answers} == {1}


@pytest.mark.real_time
async def test_a_statement_that_dies_in_the_middle_has_written_nothing(
    connect: Connect, database: asyncpg.Connection, dsn: str
) -> None:
    """The server ends its session while it waits: each caller is told, and each may repeat its write."""
    observer = await asyncpg.connect(dsn)  # in a transaction the statistics stand still
    store = await connect(max_size=4)
    tokens = await begin(store, *names(10))
    transaction = database.transaction()
    await transaction.start()
    await database.execute("LOCK TABLE workflow_events IN ACCESS EXCLUSIVE MODE")
    calls = [asyncio.ensure_future(append(store, run_id, token)) for run_id, token in tokens.items()]
    waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    async with asyncio.timeout(10):
        while len(pids := await observer.fetch(waiting)) < 2:
            await asyncio.sleep(0.01)
    for row in pids:
        await observer.execute("SELECT pg_terminate_backend($1)", row["pid"])
    await observer.close()
    answers: list[Any] = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
    await transaction.rollback()
    assert {type(answer) for answer in answers} == {StoreUnavailableError}
    assert len({id(answer) for answer in answers}) == 10, "an error of its own for each"
    assert [await length(store, run_id) for run_id in tokens] == [0] * 10
    again = await asyncio.gather(*(append(store, run_id, token) for run_id, token in tokens.items()))
    assert {answer.next_index for answer in again} == {1}


async def test_a_lost_answer_is_found_again_by_each(connect: Connect) -> None:
    """The statement was committed. Who repeats the operation gets the first answer, and nothing is written twice."""
    store = await connect()
    tokens = await begin(store, *names(10))
    sent = Sent(store)

    async def lose(name: str) -> None:
        if name in MANY:
            sent.after = None
            raise StoreUnavailableError("the connection is gone")

    sent.after = lose
    calls = [append(store, run_id, token) for run_id, token in tokens.items()]
    lost: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in lost] == [Appended] + [StoreUnavailableError] * 9
    again = await asyncio.gather(*(append(store, run_id, token) for run_id, token in tokens.items()))
    assert {answer.next_index for answer in again} == {1}
    assert [await length(store, run_id) for run_id in tokens] == [1] * 10


async def test_what_the_server_refuses_is_the_fault_of_one(connect: Connect) -> None:
    """The others are sent again without it."""
    store = await connect()
    tokens = await begin(store, *names(6))
    damaged = [CheckedEvent(kind="k", payload=JsonText("{"))]
    answers: list[Any] = await asyncio.gather(
        *(append(store, run_id, tokens[run_id]) for run_id in names(5)),
        append(store, "run-5", tokens["run-5"], events=damaged),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers[:5]] == [Appended] * 5
    assert "Appended" not in type(answers[5]).__name__
    assert [await length(store, run_id) for run_id in tokens] == [1] * 5 + [0]


async def test_who_is_cancelled_while_waiting_is_left_out(connect: Connect) -> None:
    store = await connect()
    tokens = await begin(store, *names(6))
    calls = [asyncio.ensure_future(append(store, run_id, token)) for run_id, token in tokens.items()]
    await asyncio.sleep(0)  # the first is on its way, the others gather
    calls[3].cancel()
    answers: list[Any] = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer).__name__ for answer in answers] == ["Appended"] * 3 + ["CancelledError"] + ["Appended"] * 2
    assert [await length(store, run_id) for run_id in tokens] == [1, 1, 1, 0, 1, 1]


@pytest.mark.real_time
async def test_who_is_cancelled_on_the_way_does_not_hold_up_the_others(
    connect: Connect, database: asyncpg.Connection
) -> None:
    """It waits a moment for the statement, which is the others' too and goes on."""
    store = await connect()
    tokens = await begin(store, *names(6))
    async with database.transaction():
        await database.execute("LOCK TABLE workflow_events IN ACCESS EXCLUSIVE MODE")
        calls = [asyncio.ensure_future(append(store, run_id, token)) for run_id, token in tokens.items()]
        async with asyncio.timeout(10):
            while store._combined.appends._under_way < 1:
                await asyncio.sleep(0.01)
        calls[3].cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(calls[3], 3)
    answers = await asyncio.wait_for(asyncio.gather(*calls[:3], *calls[4:]), 10)
    assert {answer.next_index for answer in answers} == {1}


@pytest.mark.real_time
async def test_who_cancels_the_statement_cancels_none_of_its_callers(
    connect: Connect, database: asyncpg.Connection
) -> None:
    """A host may cancel every task that it does not know. The callers may write again."""
    store = await connect()
    tokens = await begin(store, *names(6))
    async with database.transaction():
        await database.execute("LOCK TABLE workflow_events IN ACCESS EXCLUSIVE MODE")
        calls = [asyncio.ensure_future(append(store, run_id, token)) for run_id, token in tokens.items()]
        async with asyncio.timeout(10):
            while not store._combined.appends._sending:
                await asyncio.sleep(0.01)
        for task in tuple(store._combined.appends._sending):
            task.cancel()
        answers: list[Any] = await asyncio.wait_for(asyncio.gather(*calls[1:], return_exceptions=True), 5)
        assert {type(answer) for answer in answers} == {StoreUnavailableError}
    await asyncio.wait_for(calls[0], 5)
    again = await asyncio.gather(*(append(store, run_id, token) for run_id, token in tokens.items()))
    assert {answer.next_index for answer in again} == {1}


async def test_a_statement_has_a_bound(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    """In runs, and in bytes."""
    monkeypatch.setattr(combined_writes, "MAX_UNITS", 4)
    store = await connect()
    tokens = await begin(store, *names(13))
    sent = Sent(store)
    await asyncio.gather(*(append(store, run_id, token) for run_id, token in tokens.items()))
    assert sum(sent.runs) == 12
    assert max(sent.runs) == 4
    monkeypatch.setattr(combined_writes, "MAX_BYTES", 450)
    sent.runs.clear()
    large = [NewEvent(kind="k", payload=JsonText(f'"{"x" * 98}"'))]
    calls = [append(store, run_id, token, 1, events=large) for run_id, token in tokens.items()]
    await asyncio.gather(*calls)
    assert sum(sent.runs) == 12
    assert max(sent.runs) == 2


async def test_appends_without_events_and_with_several_share_a_statement(connect: Connect) -> None:
    store = await connect()
    tokens = await begin(store, *names(5))
    calls = []
    for number, (run_id, token) in enumerate(tokens.items()):
        events = [NewEvent(kind=f"k{index}", payload=ONE if index else None) for index in range(number)]
        calls.append(append(store, run_id, token, events=events))
    assert [answer.next_index for answer in await asyncio.gather(*calls)] == [0, 1, 2, 3, 4]
    log = await store.read_events(run_id="run-4", limit=10)
    assert [(event.index, event.kind, event.payload) for event in log] == [
        (0, "k0", None), (1, "k1", ONE), (2, "k2", ONE), (3, "k3", ONE)
    ]  # fmt: skip


async def test_who_waits_hears_that_the_store_was_closed(connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    store = await connect()
    tokens = await begin(store, *names(6))
    calls = [asyncio.ensure_future(append(store, run_id, token)) for run_id, token in tokens.items()]
    await asyncio.sleep(0)
    store._sender.close()
    answers: list[Any] = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 10)
    assert {type(answer) for answer in answers[1:]} == {ConfigurationError}
    assert len({id(answer) for answer in answers[1:]}) == 5, "an error of its own for each"
    await asyncio.sleep(0)
    del calls
    gc.collect()
    assert "never retrieved" not in caplog.text, "somebody has heard it"


# Starts.


def start(store: PostgresWorkflowStore, run_id: str, **more: Any) -> Awaitable[Any]:
    facts: dict[str, Any] = {"workflow_id": "w", "workflow_version": "1", "input": ONE, "operation_id": f"op {run_id}"}
    return store.create_run(run_id=run_id, now_ms=2, **facts | more)


async def test_starts_at_once_take_few_statements(connect: Connect) -> None:
    """Queued or claimed, now or later: each run is as if it had been started alone."""
    store = await connect()
    facts: list[dict[str, Any]] = [
        {"queue": "slow", "priority": -7, "available_at_ms": 9, "input": JsonText('"\\u0000"')},
        {"owner": "me", "lease_ms": 50},
        {"workflow_id": "other", "workflow_version": "2"},
    ]
    alone = [await start(store, f"alone-{number}", **more) for number, more in enumerate(facts)]
    sent = Sent(store)
    answers = await asyncio.gather(*(start(store, f"run-{number}", **facts[number % 3]) for number in range(12)))
    del sent.names["notify"]  # of the rest of the window
    assert sent.names == {"create_run": 1, "start_runs_together": 1}
    for number, answer in enumerate(answers):
        expected, stored = alone[number % 3], await store.load_run(run_id=f"run-{number}")
        assert answer.kind == "created"
        assert answer.run == stored == replace(expected.run, run_id=f"run-{number}")
        assert (answer.claim is None) == (expected.claim is None)
        if answer.claim is not None:
            await append(store, f"run-{number}", answer.claim.lease.token)
    assert len({answer.claim.lease.token for answer in answers if answer.claim}) == 4


async def test_id_that_is_taken_is_the_fault_of_one(connect: Connect) -> None:
    """By another start, by a repeat of this one, or by one of the same moment: the others are started."""
    store = await connect()
    await start(store, "run-3", input=JsonText("2"), operation_id="before")
    claimed = await start(store, "run-4", owner="me", lease_ms=50)
    answers = await asyncio.gather(
        *(start(store, run_id) for run_id in names(4)),
        start(store, "run-4", owner="me", lease_ms=50),
        start(store, "run-2", operation_id="another"),
        start(store, "run-1"),
    )
    kinds = [answer.kind for answer in answers]
    assert kinds[:2] + kinds[3:5] + kinds[6:] == ["created", "created", "existing", "created", "created"]
    assert sorted([kinds[2], kinds[5]]) == ["created", "existing"], "two at once under one id"
    assert answers[3].differs == ("input",)
    assert answers[4].claim.lease == claimed.claim.lease


async def test_start_whose_answer_is_lost_is_found_again(connect: Connect) -> None:
    store = await connect()
    sent = Sent(store)

    async def lose(name: str) -> None:
        if name in MANY:
            sent.after = None
            raise StoreUnavailableError("the connection is gone")

    sent.after = lose
    lost: list[Any] = await asyncio.gather(*(start(store, run_id) for run_id in names(5)), return_exceptions=True)
    assert [type(answer).__name__ for answer in lost] == ["Created"] + ["StoreUnavailableError"] * 4
    again = await asyncio.gather(*(start(store, run_id) for run_id in names(5)))
    assert {answer.kind for answer in again} == {"created"}


async def test_runs_are_started_in_the_order_of_their_ids(connect: Connect, database: asyncpg.Connection) -> None:
    """Two statements that take the same ids in another order each would wait for each other."""
    stores = [await connect(), await connect()]
    ids = [f"{number:02}" for number in range(30)]
    calls = [
        start(store, run_id, operation_id=f"op {number}")
        for number, (store, order) in enumerate(zip(stores, (ids, ids[::-1]), strict=True))
        for run_id in order
    ]
    answers = await asyncio.wait_for(asyncio.gather(*calls), 20)
    assert Counter(answer.kind for answer in answers) == {"created": 30, "existing": 30}
    await asyncio.gather(*(start(stores[0], run_id) for run_id in ("first", "z", "c", "b", "a")))
    rows = await database.fetch("SELECT run_id FROM workflow_event_locks WHERE run_id ~ '^[a-z]$' ORDER BY ctid")
    assert [row["run_id"] for row in rows] == ["a", "b", "c", "z"]


# Deliveries.


def deliver(store: PostgresWorkflowStore, run_id: str, signal_id: str = "s", **more: Any) -> Awaitable[Any]:
    facts: dict[str, Any] = {"name": "go", "payload": ONE, "now_ms": 7}
    return store.deliver_signal(run_id=run_id, signal_id=signal_id, **facts | more)


def pause(store: PostgresWorkflowStore, run_id: str, token: str, **more: Any) -> Awaitable[Paused]:
    facts: dict[str, Any] = {"expected_next_index": 0, "seen_inbox_seq": 0, "now_ms": 5, "operation_id": "pause"}
    facts["awaited"] = [Awaited(kind="signal", name="go", step_id="w", until_ms=None)]
    return store.mark_run_paused(run_id=run_id, lease_token=token, **facts | more)


async def test_deliveries_at_once_take_few_statements(connect: Connect) -> None:
    """Each has its own answer, by what its run does."""
    store = await connect()
    tokens = await begin(store, *names(8))
    await pause(store, "run-1", tokens["run-1"])
    await pause(store, "run-2", tokens["run-2"], awaited=())
    await deliver(store, "run-3", now_ms=3)
    await store.terminate_run(run_id="run-4", now_ms=4)
    sent = Sent(store)
    answers = await asyncio.gather(
        *(deliver(store, run_id, now_ms=10 + number) for number, run_id in enumerate(names(6))),
        deliver(store, "nobody"),
        deliver(store, "run-6", payload=None),
        deliver(store, "run-7", only_if_waiting=True),
    )
    del sent.names["notify"]  # of the rest of the window
    assert sent.names == {"deliver": 2, "deliver_signals": 1}
    kinds = ["buffered", "delivered", "buffered", "duplicate", "finished", "buffered", "not-found", "buffered"]
    assert [answer.kind for answer in answers] == [*kinds, "not-waiting"]
    runs = [await store.load_run(run_id=run_id) for run_id in names(8)]
    assert [run.status for run in runs if run] == ["running", "queued", "paused", "running", "aborted"] + [
        "running"
    ] * 3
    assert [run.updated_at_ms for run in runs if run] == [10, 11, 12, 3, 4, 15, 7, 1]
    assert runs[1] is not None
    assert (runs[1].due_at_ms, runs[1].awaited) == (11, ())
    entries = [await store.read_inbox(run_id=run_id, limit=9) for run_id in ("run-1", "run-6")]
    assert [(entry.inbox_seq, entry.received_at_ms, entry.payload) for [entry] in entries] == [
        (1, 11, ONE),
        (1, 7, None),
    ]


async def test_signals_for_one_run_are_numbered_without_gaps(connect: Connect) -> None:
    """They never share a statement, and each is answered with its own number."""
    store = await connect()
    await begin(store, *names(2))
    answers = await asyncio.gather(*(deliver(store, f"run-{number % 2}", f"s-{number}") for number in range(20)))
    for half in (answers[::2], answers[1::2]):
        assert sorted(answer.inbox_seq for answer in half) == list(range(1, 11))
    for run_id in names(2):
        assert [entry.inbox_seq for entry in await store.read_inbox(run_id=run_id, limit=99)] == list(range(1, 11))


# Pauses.


async def test_pauses_at_once_take_few_statements(connect: Connect) -> None:
    """Each with its events, its timers and its inbox, as if it had been made alone."""
    store = await connect()
    cases: list[dict[str, Any]] = [
        {},
        {"events": [NewEvent(kind="k", step_id="s", payload=ONE), NewEvent(kind="l")], "awaited": ()},
        {"set_timers": [Timer(timer_id="new", fire_at_ms=40), Timer(timer_id="kept", fire_at_ms=90)]},
        {"removed_timers": ["gone", "unknown"]},
        {"removed_timers": ["kept", "gone"], "set_timers": [Timer(timer_id="new", fire_at_ms=60)]},
        {"set_timers": [Timer(timer_id="gone", fire_at_ms=70)], "removed_timers": ["kept"]},
        {"seen_inbox_seq": 1},
        {"inbox": True, "set_timers": [Timer(timer_id="new", fire_at_ms=40)]},
    ]

    async def prepare(name: str) -> dict[str, str]:
        tokens = await begin(store, *(f"{name}-{number}" for number in range(len(cases))))
        timers = [Timer(timer_id="gone", fire_at_ms=20), Timer(timer_id="kept", fire_at_ms=30)]
        for (run_id, token), case in zip(tokens.items(), cases, strict=True):
            await append(store, run_id, token, events=[], set_timers=timers)
            if case.get("inbox"):
                await deliver(store, run_id, now_ms=3)
        return tokens

    def paused(run_id: str, token: str, case: dict[str, Any]) -> Awaitable[Paused]:
        return pause(store, run_id, token, **{name: value for name, value in case.items() if name != "inbox"})

    async def state(run_id: str) -> Any:
        execution = await store.load_execution(run_id=run_id)
        assert execution is not None
        return (
            replace(execution.run, run_id="any"),
            execution.history,
            sorted(execution.timers, key=str),
            execution.inbox,
        )

    apart, together = await prepare("apart"), await prepare("together")
    expected = [await paused(*run, case) for run, case in zip(apart.items(), cases, strict=True)]
    sent = Sent(store)
    answers = await asyncio.gather(*(paused(*run, case) for run, case in zip(together.items(), cases, strict=True)))
    del sent.names["notify"]  # of the rest of the window
    assert sent.names == {"mark_run_paused": 1, "mark_runs_paused": 1}
    assert answers == expected
    assert [answer.status for answer in answers] == ["paused"] * 7 + ["queued"]
    for one, other in zip(apart, together, strict=True):
        assert await state(other) == await state(one), other
    again = await asyncio.gather(*(paused(*run, case) for run, case in zip(together.items(), cases, strict=True)))
    assert again == expected, "a repeat has the first answer"


async def test_pause_that_is_refused_is_the_fault_of_one(connect: Connect) -> None:
    """A lost lease, a wrong length, many timers, something taken: the others are paused."""
    store = await connect()
    tokens = await begin(store, *names(8))
    await deliver(store, "run-6")
    many = [Timer(timer_id=f"t{number}", fire_at_ms=9) for number in range(20)]
    answers: list[Any] = await asyncio.gather(
        *(pause(store, run_id, tokens[run_id]) for run_id in names(3)),
        pause(store, "run-3", "not its token"),
        pause(store, "run-4", tokens["run-4"], expected_next_index=7),
        pause(store, "run-5", tokens["run-5"], set_timers=many),
        pause(store, "run-6", tokens["run-6"], taken_inbox=[1], seen_inbox_seq=1),
        pause(store, "run-7", tokens["run-7"]),
        return_exceptions=True,
    )
    kinds = [type(answer).__name__ for answer in answers]
    assert kinds == ["Paused"] * 3 + ["LeaseLostError", "LogConflictError"] + ["Paused"] * 3
    runs = [await store.load_run(run_id=run_id) for run_id in names(8)]
    assert [run.status for run in runs if run] == ["paused"] * 3 + ["running"] * 2 + ["paused"] * 3
    assert not await store.read_inbox(run_id="run-6", limit=9), "what was taken comes no more"


# Notices.


@pytest.mark.real_time
async def test_what_is_written_together_is_noticed(connect: Connect) -> None:
    """Starts, deliveries and pauses that leave work: each run is named, by the statement or soon after it."""
    store, other = await connect(), await connect()
    heard: list[str | None] = []

    def hear(notice: WorkNotice) -> None:
        heard.append(notice.run_id)

    async def until_heard(*run_ids: str) -> None:
        async with asyncio.timeout(10):
            while not set(run_ids) <= set(heard) and None not in heard[1:]:
                await asyncio.sleep(0.01)
        heard[:] = [None]

    async with other.listen(hear) as listening:
        async with asyncio.timeout(10):
            while not listening.live:
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        heard[:] = [None]
        await asyncio.gather(*(start(store, run_id) for run_id in names(6)))
        await until_heard(*names(6))
        claimed = [f"claimed-{number}" for number in range(6)]
        tokens = await begin(store, *claimed)
        soon = [Timer(timer_id="t", fire_at_ms=6)]
        await asyncio.gather(*(pause(store, run_id, token, set_timers=soon) for run_id, token in tokens.items()))
        await until_heard(*claimed)
        await asyncio.gather(*(deliver(store, run_id) for run_id in claimed))
        await until_heard(*claimed)


@pytest.mark.real_time
@pytest.mark.parametrize("kind", ["start", "deliver", "pause"])
async def test_first_notice_of_a_quiet_process_goes_with_the_statement(connect: Connect, kind: str) -> None:
    """Also with one for many: nobody waits for the end of the window."""
    store, other = await connect(), await connect()
    for writes in store._combined:
        writes.always = True
    token = (await begin(store, "run"))["run"]
    if kind == "deliver":
        await pause(store, "run", token)
    heard: list[str | None] = []

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)

    async with other.listen(lambda notice: heard.append(notice.run_id)) as listening:
        await until(lambda: listening.live and store._notices.quiet)
        sent = Sent(store)
        if kind == "start":
            await start(store, "new")
        elif kind == "deliver":
            await deliver(store, "run")
        else:
            await pause(store, "run", token, set_timers=[Timer(timer_id="t", fire_at_ms=6)])
        await until(lambda: ("new" if kind == "start" else "run") in heard)
        await asyncio.sleep(0.1)
    assert sum(sent.names[name] for name in MANY) == 1
    assert "notify" not in sent.names
