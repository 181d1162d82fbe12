"""The memory store's own behaviour. The contract tests have what every store must do."""

from __future__ import annotations

import asyncio
import inspect
import os
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
from workflow_runtime.errors import ConfigurationError, InvalidArgumentError, LeaseLostError, PayloadTooLargeError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import Created, NewEvent, WorkflowExecutionStore, protocol
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

INPUT = JsonText("{}")


def as_contract(store: InMemoryWorkflowStore) -> WorkflowExecutionStore:
    """The type checker proves here that the class keeps the Protocol."""
    return store


async def create(store: InMemoryWorkflowStore, run_id: str = "run", **options: Any) -> Created:
    arguments: dict[str, Any] = {"operation_id": f"create-{run_id}", "now_ms": 1_000, "input": INPUT} | options
    created = await store.create_run(run_id=run_id, workflow_id="workflow", workflow_version="1", **arguments)
    assert isinstance(created, Created)
    return created


async def test_stores_without_shared_data_do_not_meet() -> None:
    """Each store has data of its own unless it is told otherwise."""
    first, second = InMemoryWorkflowStore(), InMemoryWorkflowStore()
    await create(first)
    assert await second.load_run(run_id="run") is None


async def test_handles_on_the_same_data_see_each_others_writes() -> None:
    """Two stores over one `InMemoryData` are two connections to one database."""
    data = InMemoryData()
    first, second = InMemoryWorkflowStore(data=data), InMemoryWorkflowStore(data=data)
    created = await create(first)
    assert await second.load_run(run_id="run") == created.run


async def test_handles_on_the_same_data_keep_their_own_limits() -> None:
    """Capabilities belong to the handle, not to the data."""
    data = InMemoryData()
    small, large = InMemoryWorkflowStore(data=data, max_payload_bytes=4), InMemoryWorkflowStore(data=data)
    with pytest.raises(PayloadTooLargeError):
        await create(small, input=JsonText('"1234"'))
    await create(large, input=JsonText('"1234"'))
    assert (small.capabilities.max_payload_bytes, small.capabilities.durable) == (4, False)


async def test_closing_a_handle_leaves_the_data() -> None:
    """`close` and `async with` end nothing that another handle needs."""
    data = InMemoryData()
    async with InMemoryWorkflowStore(data=data) as store:
        await create(store)
    await store.close()
    await store.close()
    assert await InMemoryWorkflowStore(data=data).load_run(run_id="run") is not None


async def test_a_repeated_answer_is_not_changed_by_what_happened_since() -> None:
    """The kept answer of an operation shares no state with the run that lives on."""
    store = InMemoryWorkflowStore()
    created = await create(store, owner="worker", lease_ms=1_000)
    await store.cancel_run(run_id="run", now_ms=1_001)
    assert await create(store, owner="worker", lease_ms=1_000) == created


async def test_a_callers_list_is_copied() -> None:
    """A list that the caller changes after the call does not reach into the store."""
    store = InMemoryWorkflowStore()
    created = await create(store, owner="worker", lease_ms=1_000)
    assert created.claim is not None
    events = [NewEvent(kind="step", payload=JsonText("1"))]
    await store.append_events(
        run_id="run",
        lease_token=created.claim.lease.token,
        operation_id="append",
        expected_next_index=0,
        events=events,
        now_ms=1_001,
        lease_ms=1_000,
    )
    events.clear()
    assert len(await store.read_events(run_id="run", limit=10)) == 1


async def test_a_recreated_run_has_other_tokens() -> None:
    """A token holds a part that is random for each record, so that deleting a run does not free its tokens."""
    store = InMemoryWorkflowStore()
    first = await create(store, owner="worker", lease_ms=1_000)
    await store.delete_run(run_id="run", now_ms=1_001, force=True)
    second = await create(store, owner="worker", lease_ms=1_000)
    assert first.claim is not None
    assert second.claim is not None
    assert first.claim.lease.number == second.claim.lease.number
    with pytest.raises(LeaseLostError):
        await store.heartbeat_run_lease(run_id="run", lease_token=first.claim.lease.token, lease_ms=1_000, now_ms=1_002)


async def test_the_clock_can_be_replaced() -> None:
    """`clock` feeds `read_clock` and the answer to a heartbeat, and decides nothing."""
    store = InMemoryWorkflowStore(clock=lambda: 7)
    created = await create(store, owner="worker", lease_ms=1_000)
    assert created.claim is not None
    renewal = await store.heartbeat_run_lease(
        run_id="run", lease_token=created.claim.lease.token, lease_ms=5_000, now_ms=2_000
    )
    assert (await store.read_clock(), renewal.store_clock_ms, renewal.lease_expires_at_ms) == (7, 7, 7_000)


async def test_there_is_nothing_to_migrate() -> None:
    """The methods about schemas exist and have nothing to say."""
    store = InMemoryWorkflowStore()
    await store.ensure_schema()
    await store.check_schema()
    assert (store.get_migrations(), store.get_migration_sql()) == ((), "")


async def test_a_verb_lets_other_tasks_run_before_its_work() -> None:
    """Two tasks that each make two calls interleave, as they would over a network."""
    store, order = InMemoryWorkflowStore(), []

    async def look(name: str) -> None:
        for _ in range(2):
            await store.load_run(run_id="run")
            order.append(name)

    await asyncio.gather(look("a"), look("b"))
    assert order == ["a", "b", "a", "b"]


@pytest.fixture
def eager_threads() -> Iterator[None]:
    """Make threads take turns so often that a verb without its lock would be cut in two."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(interval)


@pytest.mark.usefixtures("eager_threads")
def test_one_claim_wins_between_threads() -> None:
    """Handles in several threads, each with its own event loop, never claim the same run."""
    data, threads = InMemoryData(), 4
    claimed: list[str] = []
    together = threading.Barrier(threads)

    async def claim(owner: str) -> None:
        store = InMemoryWorkflowStore(data=data)
        together.wait(timeout=10)
        for _ in range(25):
            batch = await store.claim_pending_runs(owner=owner, lease_ms=1_000, now_ms=2_000, limit=1)
            claimed.extend(claim.run.run_id for claim in batch.claims)

    async def create_all() -> None:
        for number in range(100):
            await create(InMemoryWorkflowStore(data=data), f"run-{number}")

    asyncio.run(create_all())
    workers = [threading.Thread(target=lambda: asyncio.run(claim("worker"))) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(timeout=30)
    assert sorted(claimed) == sorted(f"run-{number}" for number in range(100))


async def test_a_refused_argument_writes_nothing() -> None:
    """Arguments are checked before the work begins."""
    store = InMemoryWorkflowStore()
    with pytest.raises(InvalidArgumentError, match="priority"):
        await create(store, priority=40_000)
    assert await store.load_run(run_id="run") is None


@pytest.mark.parametrize("name", sorted(name for name in dir(WorkflowExecutionStore) if not name.startswith("_")))
def test_every_method_of_the_contract_is_there_with_its_arguments(name: str) -> None:
    """Names, order, defaults and kinds of the arguments are those of the Protocol."""
    wanted, found = getattr(WorkflowExecutionStore, name), getattr(InMemoryWorkflowStore, name)
    if isinstance(wanted, property):
        assert isinstance(found, property)
    else:
        assert inspect.signature(found) == inspect.signature(wanted)


def test_the_clauses_that_a_verb_names_are_those_of_the_contract() -> None:
    """A clause that is renamed or withdrawn must not live on in this store's docstrings."""
    known = set(re.findall(r"^\s+([A-Z]+-\d+):", inspect.getsource(protocol), flags=re.MULTILINE))
    docs = [inspect.getdoc(verb) or "" for _, verb in inspect.getmembers(InMemoryWorkflowStore, inspect.isfunction)]
    named = set(re.findall(r"[A-Z]+-\d+", " ".join(docs)))
    assert named
    assert named <= known


class CountedList(list[Any]):
    """Counts how often an item is looked at."""

    looks = 0

    def __getitem__(self, index: Any) -> Any:
        self.looks += 1
        return super().__getitem__(index)

    def __iter__(self) -> Iterator[Any]:
        for item in super().__iter__():
            self.looks += 1
            yield item


async def test_pages_of_log_and_inbox_do_not_walk_over_what_lies_before() -> None:
    """What each page costs depends on its own length: a page per item stays linear."""
    data, count = InMemoryData(), 200
    store = InMemoryWorkflowStore(data=data)
    await create(store)
    run = data.runs["run"]
    run.append([NewEvent(kind="step", payload=INPUT) for _ in range(count)], [], 1_000)
    for number in range(count):
        await store.deliver_signal(run_id="run", signal_id=str(number), name="go", payload=INPUT, now_ms=1_000)
    run.events, run.inbox = CountedList(run.events), CountedList(run.inbox)
    for index in range(count):
        assert [event.index for event in await store.read_events(run_id="run", from_index=index, limit=1)] == [index]
        assert [e.inbox_seq for e in await store.read_inbox(run_id="run", after_seq=index, limit=1)] == [index + 1]
    assert run.events.looks <= 3 * count
    assert run.inbox.looks <= 3 * count


def test_one_store_serves_one_event_loop_after_the_other() -> None:
    """There is no connection that would belong to one of them."""
    store = InMemoryWorkflowStore()
    asyncio.run(create(store))
    assert asyncio.run(store.load_run(run_id="run")) is not None


def test_a_listener_whose_event_loop_is_closed_hinders_nobody() -> None:
    store = InMemoryWorkflowStore()
    loop = asyncio.new_event_loop()
    listening = store.listen(lambda notice: None)
    loop.run_until_complete(listening.__aenter__())
    loop.close()
    asyncio.run(create(store))
    assert asyncio.run(store.load_run(run_id="run")) is not None


def test_a_forked_child_is_refused_and_has_a_store_of_its_own() -> None:
    """What it writes into its copy would be acknowledged, and nobody would ever find it."""
    store = InMemoryWorkflowStore()
    asyncio.run(create(store))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # that the process has threads
        pid = os.fork()
    if pid == 0:
        os._exit(in_child(store))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def in_child(store: InMemoryWorkflowStore) -> int:
    try:
        asyncio.run(store.load_run(run_id="run"))
    except ConfigurationError as error:
        asyncio.run(create(InMemoryWorkflowStore()))
        return 0 if "forked" in str(error) else 2
    return 1
