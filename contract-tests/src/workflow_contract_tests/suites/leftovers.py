"""STATUS, RETAIN, CANCEL and TX: refusals leave nothing behind, also where nobody looks at once; units stay whole."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import (
    STATES,
    STATUS_TABLE,
    TERMINAL_STATUSES,
    NewEvent,
    RunStatus,
    SignalToDeliver,
    SupportsTransactions,
    Timer,
    TransactionWrite,
    WorkflowExecutionStore,
)

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, MANY, event
from ..scenarios import claim, claim_pending, create, observe, record, start, start_full, start_waiting, unchanged
from ..settings import scaled
from ..tasks import all_of
from ..verbs import CLAIM_VERBS, LEASE_VERBS
from .status_table import CALLS, in_state

_REFUSALS = {
    *("existing", "not-claimable", "not-claimed", "finished", "not-requeueable", "not-retryable"),
    *("not-deletable", "kept", "lease-lost"),
}


async def _call(h: StoreHarness, verb: str, holder: LeaseHolder) -> str:
    """Call a verb with all that it can change; a driver's one with the run's last token."""
    for lease_verb in LEASE_VERBS:
        if lease_verb.name == verb:
            arguments = lease_verb.everything(holder)
            try:
                await lease_verb.of(h.store)(**arguments)
            except LeaseLostError:
                return "lease-lost"
            return "ok"
    return await CALLS[verb](h, holder)


@clause("STATUS-1", "RUN-6", "FENCE-1")
async def refusals_of_every_status_change_nothing(h: StoreHarness) -> None:
    """Each verb that a status refuses leaves the run, its log, its inbox and its timers as they are, and others too."""
    holders = {}
    for state in STATES:
        holders[state] = await in_state(h, state)
        await holders[state].signal("other", "before")
    h.advance(10)
    for state, holder in holders.items():
        async with unchanged(h, holder.run_id, after=f"a refusal of a run that is {state}"):
            for verb, answers in STATUS_TABLE.items():
                if answers[state] in _REFUSALS:
                    answer = await _call(h, verb, holder)
                    assert answer == answers[state], f"{verb} of a run that is {state} answered {answer}"


_Revive = Callable[[StoreHarness, str], Awaitable[Any]]
_REVIVALS: dict[str, _Revive] = {
    "errored": lambda h, run_id: h.store.retry_run(run_id=run_id, event=event(), now_ms=h.now_ms),
    "dead": lambda h, run_id: h.store.requeue_run(run_id=run_id, now_ms=h.now_ms),
    "aborted": lambda h, run_id: h.store.retry_run(
        run_id=run_id, event=event(), now_ms=h.now_ms, statuses=[RunStatus.ABORTED]
    ),
}


async def _refused_meanwhile(h: StoreHarness, run_id: str, *, dead: bool) -> None:
    """Make every outside call that a run in such a status refuses."""
    common: dict[str, Any] = {"run_id": run_id, "now_ms": h.now_ms}
    late = SignalToDeliver(run_id=run_id, signal_id="late", name="go")
    kinds: set[str] = {(await h.store.cancel_run(**common, reason="late")).kind}
    kinds |= {(await h.store.cancel_runs(run_ids=[run_id], now_ms=h.now_ms))[run_id].kind}
    if not dead:
        kinds |= {
            (await h.store.deliver_signal(**common, signal_id="late", name="go", payload=None)).kind,
            *(answer.kind for answer in await h.store.deliver_signals(signals=[late], now_ms=h.now_ms)),
            (await h.store.deliver_approval(**common, approval_id="late", approved=False)).kind,
            (await h.store.deliver_retry(**common, retry_id="late")).kind,
            (await h.store.terminate_run(**common, reason="late")).kind,
        }
    assert kinds == {"finished"}


@clause("CANCEL-1", "SIGNAL-3", "RETRY-3", "RETRY-4", "DEAD-1", "APPROVAL-2", each=_REVIVALS)
async def refused_deliveries_leave_nothing_for_a_later_life(h: StoreHarness, state: str) -> None:
    """A request that an ended run refused did not happen: brought back, it is not asked to end; the ids are free."""
    holder = await start_full(h, "run")
    if state == "dead":
        await holder.fail(parked=True)
    elif state == "errored":
        await holder.fail()
    else:
        await h.store.terminate_run(run_id="run", now_ms=h.now_ms)
    await _refused_meanwhile(h, "run", dead=state == "dead")
    await _REVIVALS[state](h, "run")
    again = await claim(h, "run")
    assert not again.claim.run.cancel_requested, "a request that was answered `finished` ends the run"
    assert [entry.delivery_id for entry in again.claim.inbox] == ["s1"]
    assert again.claim.run.reason is None
    common: dict[str, Any] = {"run_id": "run", "now_ms": h.now_ms}
    assert (await h.store.deliver_signal(**common, signal_id="late", name="go", payload=None)).kind == "buffered"
    assert (await h.store.deliver_approval(**common, approval_id="late", approved=True)).kind == "buffered"
    assert (await h.store.deliver_retry(**common, retry_id="late")).kind == "buffered"
    assert (await h.store.cancel_run(**common)).kind == "requested"
    (*_, last) = await h.second.read_inbox(run_id="run", limit=9)
    assert (last.kind, last.inbox_seq) == ("cancel", 5)


@clause("SIGNAL-5", "APPROVAL-2", "SIGNAL-3")
async def not_waiting_leaves_the_ids_free(h: StoreHarness) -> None:
    """A delivery that answered `not-waiting` is not known: its signal and its approval may come again."""
    holder = await start_waiting(h, run_id="run", signals=["other"])
    common: dict[str, Any] = {"run_id": "run", "now_ms": h.now_ms}
    async with unchanged(h, "run", after="a refused delivery"):
        for _ in range(2):
            answers = (
                await h.store.deliver_signal(**common, signal_id="s", name="go", payload=None, only_if_waiting=True),
                await h.store.deliver_approval(**common, approval_id="a", approved=False, only_if_waiting=True),
            )
            assert [answer.kind for answer in answers] == ["not-waiting", "not-waiting"]
    assert (await h.store.deliver_signal(**common, signal_id="s", name="go", payload=None)).kind == "buffered"
    assert (await h.store.deliver_approval(**common, approval_id="a", approved=True)).kind == "buffered"
    assert holder.run_id == "run"


# Erased runs, and those that stay.


async def _full(
    h: StoreHarness, run_id: str, *, ended_at_ms: int, workflow_id: str = "erased", status: str = "dead"
) -> None:
    """Leave an ended run with a log, timers, and entries of every kind, some taken."""
    holder = await start(h, run_id, workflow_id=workflow_id)
    await holder.signal("go", "s1", '"x"')
    await holder.append('"a"', '"b"', taken_inbox=[1], set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 5)])
    common: dict[str, Any] = {"run_id": run_id, "now_ms": h.now_ms}
    await h.store.deliver_approval(**common, approval_id="a1", approved=True)
    await h.store.deliver_retry(**common, retry_id="r1")
    await h.store.deliver_signal(**common, signal_id="s2", name="go", payload=None)
    await h.store.cancel_run(**common)
    await holder.fail(
        parked=status == "dead", aborted=status == "aborted", reason="r", now_ms=ended_at_ms, events=[event('"c"')]
    )


_Erase = Callable[[StoreHarness], Awaitable[Any]]
_ERASURES: dict[str, _Erase] = {
    "delete": lambda h: h.store.delete_run(run_id="gone", now_ms=h.now_ms),
    "force": lambda h: h.store.delete_run(run_id="gone", now_ms=h.now_ms, force=True),
    "prune-limit": lambda h: h.store.prune_runs(finished_before_ms=h.now_ms + MANY, limit=1, statuses=[RunStatus.DEAD]),
    "prune-time": lambda h: h.store.prune_runs(
        finished_before_ms=h.now_ms + 1, limit=MANY, statuses=sorted(TERMINAL_STATUSES), workflow_ids=["erased"]
    ),
}
_KEPT = ("gon", "gone ", "gone%", "Gone", "goner", "_one", "gone\u0301")


@clause("RETAIN-1", "RETAIN-3", each=_ERASURES)
async def those_that_stay_keep_everything(h: StoreHarness, how: str) -> None:
    """The runs that an erasure spares keep log, inbox, timers and what is known of them."""
    await _full(h, "gone", ended_at_ms=h.now_ms)
    for number, run_id in enumerate(_KEPT):
        if how == "prune-time" and number % 2:  # ended before, and of another workflow
            await _full(h, run_id, ended_at_ms=h.now_ms - number, workflow_id="kept")
        else:
            await _full(h, run_id, ended_at_ms=h.now_ms + 1 + number)
    running = await start_full(h, "running")
    async with unchanged(h, *_KEPT, "running", after=how):
        await _ERASURES[how](h)
        assert await h.store.load_run(run_id="gone") is None, f"{how} erased nothing"
    for run_id in _KEPT:
        known = await h.store.deliver_signal(run_id=run_id, signal_id="s1", name="go", payload=None, now_ms=h.now_ms)
        assert known.kind == "duplicate", f"{how} made the store forget a signal of {run_id!r}"
        await h.store.requeue_run(run_id=run_id, now_ms=h.now_ms)
        again = await claim(h, run_id, now_ms=h.now_ms + 5)
        assert [one.payload for one in again.claim.history] == ['"a"', '"b"', '"c"']
        assert [timer.timer_id for timer in again.claim.due_timers] == ["t"]
        assert [entry.inbox_seq for entry in again.claim.inbox] == [2, 3, 4, 5]
    await running.append("1")


@clause("RETAIN-1", "RETAIN-3")
async def runs_that_ended_at_once_go_whole(h: StoreHarness) -> None:
    """Of runs that ended in one millisecond a prune takes some, with all their traces and no trace of the others."""
    ended = {"z": "dead", "b": "errored", "m": "aborted", "a": "dead", "y": "aborted", "c": "errored", "k": "dead"}
    for run_id, status in ended.items():
        await _full(h, run_id, ended_at_ms=h.now_ms, status=status)
    before = await observe(h, *ended)
    left = set(ended)
    while left:
        expected = min(2, len(left))
        pruned = await h.second.prune_runs(
            finished_before_ms=h.now_ms + 1, limit=2, statuses=sorted(TERMINAL_STATUSES), workflow_ids=["erased"]
        )
        assert pruned == expected, f"pruned {pruned} of the {len(left)} runs that are left"
        listed = {run.run_id for run in (await h.store.list_runs(limit=MANY, workflow_ids=["erased"])).runs}
        assert await observe(h, *listed) == {run_id: before[run_id] for run_id in listed}
        for run_id in left - listed:
            await _expect_no_trace(h, run_id)
        assert len(left - listed) == expected
        left = listed


@clause("RETAIN-1", "RETAIN-2", each=("expired", "forced", "released", "paused"))
async def run_deleted_alive_goes_whole(h: StoreHarness, how: str) -> None:
    """A run that is deleted before its end, also at the very end of its lease, leaves no log, inbox, timers or ids."""
    holder = await start_full(h, "gone")
    if how == "released":
        await holder.release()
    elif how == "paused":
        await holder.pause(signals=["other"], seen_inbox_seq=1)
    now_ms = h.advance(LEASE_MS) if how == "expired" else h.now_ms
    deleted = await h.store.delete_run(run_id="gone", now_ms=now_ms, force=how == "forced")
    assert deleted.kind == "deleted"
    await _expect_no_trace(h, "gone")


async def _expect_no_trace(h: StoreHarness, run_id: str) -> None:
    """Check that a new run under the id of an erased one inherits nothing."""
    await create(h, run_id, workflow_id="namesake")
    execution = await h.second.load_execution(run_id=run_id)
    assert execution is not None
    assert (execution.history, execution.inbox, execution.timers) == ((), (), ()), f"{run_id} left something"
    again = await h.second.deliver_signal(run_id=run_id, signal_id="s1", name="go", payload=None, now_ms=h.now_ms)
    assert (again.kind, getattr(again, "inbox_seq", None)) == ("buffered", 1), f"{run_id} left a signal"


@clause("RETAIN-1", "SIGNAL-2", "APPROVAL-2", "SIGNAL-7", "CANCEL-1", "TIMER-3", each=_ERASURES)
async def namesake_of_an_erased_run_begins_anew(h: StoreHarness, how: str) -> None:
    """A run under an erased id knows no delivery, no request and no timer, is asked by nobody, and sleeps on."""
    await _full(h, "gone", ended_at_ms=h.now_ms)
    await _ERASURES[how](h)
    assert await h.store.load_run(run_id="gone") is None, f"{how} erased nothing"
    holder = await start(h, "gone")
    run = await record(h, "gone")
    assert (run.cancel_requested, run.crashes, run.error, run.reason, run.inbox_seq) == (False, 0, None, None, 0)
    common: dict[str, Any] = {"run_id": "gone", "now_ms": h.now_ms}
    answers = [
        await h.store.deliver_signal(**common, signal_id="s1", name="go", payload=None),
        await h.store.deliver_approval(**common, approval_id="a1", approved=False),
        await h.store.deliver_retry(**common, retry_id="r1"),
        await h.store.cancel_run(**common),
    ]
    assert [(answer.kind, getattr(answer, "inbox_seq", None)) for answer in answers] == [
        ("buffered", 1),
        ("buffered", 2),
        ("buffered", 3),
        ("requested", 4),
    ]
    assert len(await h.second.read_inbox(run_id="gone", limit=9)) == 4
    await holder.append('"new"', taken_inbox=[1, 2, 3, 4])
    await holder.pause(seen_inbox_seq=4)
    assert (await record(h, "gone")).due_at_ms is None, "a timer of the erased run came back"
    for verb in CLAIM_VERBS:
        assert (await verb.call(h, now_ms=h.now_ms + 10**6)).claims == (), f"{verb} found a paused run without timers"
    log = await h.second.read_events(run_id="gone", limit=9)
    assert [one.payload for one in log] == ['"new"']


@clause("CANCEL-4", "FINISH-1", "FINISH-3", "RETRY-3", each=("finish", "fail", "abort", "terminate"))
async def ended_run_has_no_timers_in_a_later_life(h: StoreHarness, how: str) -> None:
    """The timers of a run that ended are gone for good: brought back, it pauses without any."""
    holder = await start_full(h, "run")
    await holder.set_timer("soon", h.now_ms + 5)
    if how == "finish":
        await holder.finish()
        await h.store.delete_run(run_id="run", now_ms=h.now_ms)
        holder = await start(h, "run")
    else:
        if how == "terminate":
            await h.store.terminate_run(run_id="run", now_ms=h.now_ms)
        else:
            await holder.fail(aborted=how == "abort")
        ended = [RunStatus.ERRORED, RunStatus.ABORTED]
        await h.store.retry_run(run_id="run", event=NewEvent(kind="retried"), now_ms=h.now_ms, statuses=ended)
        holder = await claim(h, "run")
    assert holder.claim.due_timers == ()
    await holder.pause()
    run = await record(h, "run")
    assert (run.status, run.due_at_ms) == ("paused", None), "a timer of the former life came back"


_TERMINATED = [
    f"{verb}-{state}"
    for verb in ("terminate_run", "terminate_runs")
    for state in ("queued", "running", "paused", "dead")
]


@clause("CANCEL-4", "BULK-1", "RETRY-3", each=_TERMINATED)
async def terminated_run_has_no_timers_in_a_later_life(h: StoreHarness, how: str) -> None:
    """Terminated in whatever status, alone or among others, a run loses its timers for good."""
    verb, _, state = how.partition("-")
    holder = await start(h, "run")
    await holder.append('"a"', set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 5)])
    if state == "queued":
        await holder.release()
    elif state == "paused":
        await holder.pause(signals=["go"])
    elif state == "dead":
        await holder.fail(parked=True)
    if verb == "terminate_run":
        assert (await h.store.terminate_run(run_id="run", now_ms=h.now_ms)).kind == "terminated"
    else:
        assert (await h.store.terminate_runs(run_ids=["run"], now_ms=h.now_ms))["run"].kind == "terminated"
    await h.store.retry_run(run_id="run", event=event(), now_ms=h.now_ms, statuses=[RunStatus.ABORTED])
    again = await claim(h, "run", now_ms=h.now_ms + 9)
    assert again.claim.due_timers == (), "a timer of the former life came back"
    await again.pause(now_ms=h.now_ms + 9)
    assert (await record(h, "run")).due_at_ms is None


@clause("DEAD-1", "BULK-1", each=("requeue_run", "requeue_runs"))
async def requeued_run_forgets_why_it_was_parked(h: StoreHarness, verb: str) -> None:
    """Given back, alone or among others, a run has no error and no reason; one that was not dead keeps its error."""
    ids = ["parked", "errored"]
    for run_id in ids:
        await (await start(h, run_id)).fail('{"type":"Boom"}', parked=run_id == "parked", reason="why")
    assert (await record(h, "parked")).reason == "why"
    if verb == "requeue_runs":
        await h.store.requeue_runs(run_ids=ids, now_ms=h.now_ms)
    else:
        for run_id in ids:
            await h.store.requeue_run(run_id=run_id, now_ms=h.now_ms)
    parked, errored = await record(h, "parked"), await record(h, "errored")
    assert (parked.status, parked.error, parked.reason) == ("queued", None, None)
    assert (errored.status, errored.error) == ("errored", '{"type":"Boom"}')


@clause("RETAIN-1", "CLAIM-7", "LIST-4")
async def erased_runs_are_due_for_nobody(h: StoreHarness) -> None:
    """Erased runs are in no count, no listing and no claim, and are named by none as due next."""
    for run_id in ("queued", "waiting", "held"):
        if run_id == "queued":
            await create(h, run_id, available_at_ms=h.now_ms + 9)
        elif run_id == "waiting":
            await start_waiting(h, run_id=run_id, timers={"t": h.now_ms + 9})
        else:
            await start(h, run_id, lease_ms=9)
        await h.store.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)
    await create(h, "other", available_at_ms=h.now_ms + 10**6)
    for verb in CLAIM_VERBS:
        batch = await verb.call(h, now_ms=h.now_ms + LEASE_MS)
        expected = h.now_ms + 10**6 if verb is CLAIM_VERBS[0] else None
        assert (batch.claims, batch.next_due_ms) == ((), expected), f"{verb} sees an erased run"
    assert dict(await h.store.count_runs()) == {RunStatus.QUEUED: 1}
    assert (await claim_pending(h, now_ms=h.now_ms + 10**6)).claims[0].run.run_id == "other"


# A business write and its record.

_PAYMENTS = scaled(12)


async def _pay(
    h: StoreHarness, holder: LeaseHolder, key: str, store: WorkflowExecutionStore, worked: asyncio.Event | None = None
) -> None:
    async def work(tx: Any) -> TransactionWrite:
        await h.write_business(tx, key)
        if worked is not None:
            worked.set()
        return TransactionWrite(
            expected_next_index=holder.next_index, events=(event(f'"{key}"'),), now_ms=h.now_ms, lease_ms=LEASE_MS
        )

    answer = await cast("SupportsTransactions", store).append_in_transaction(
        run_id=holder.run_id, lease_token=holder.token, operation_id=key, work=work
    )
    holder.next_index = answer.next_index


async def _recorded(store: WorkflowExecutionStore, run_id: str) -> set[str]:
    log = await store.read_events(run_id=run_id, limit=MANY)
    return {str(one.payload).strip('"') for one in log}


@clause("TX-1", capability="transactions")
async def readers_see_row_and_record_together(h: StoreHarness) -> None:
    """A reader, while transactions commit, sees no row without its record, and no record without its row."""
    holder = await start(h, "run")
    store = (await h.handles(3))[2]
    done = asyncio.Event()

    async def pay() -> None:
        try:
            for number in range(_PAYMENTS):
                await _pay(h, holder, f"k{number}", store)
        finally:
            done.set()

    async def look() -> None:
        while not done.is_set():
            # What is read second may be newer, so each is a part of what is read after it.
            recorded = await _recorded(h.second, "run")
            rows = set(await h.read_business())
            assert recorded <= rows, f"the record of {recorded - rows} is there without its row"
            assert rows <= await _recorded(h.second, "run"), "a row is there without its record"
            await asyncio.sleep(0)

    await all_of(pay(), look())
    assert await _recorded(h.second, "run") == set(await h.read_business()) == {f"k{n}" for n in range(_PAYMENTS)}


@clause("TX-4", "TX-5", "TX-1", capability="transactions")
async def abandoned_transaction_is_whole_or_nothing(h: StoreHarness) -> None:
    """A transaction whose caller is cancelled while it commits is there once, row and record, when it is repeated."""
    holder = await start(h, "run")
    store = (await h.handles(3))[2]
    for patience in range(_PAYMENTS):
        key = f"k{patience}"
        before = holder.next_index
        worked = asyncio.Event()
        task = asyncio.ensure_future(_pay(h, holder, key, store, worked))
        # From then on the store commits.
        await worked.wait()
        for _ in range(patience):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        holder.next_index = before
        # The same operation again, as a worker does that does not know what became of the first call.
        await _pay(h, holder, key, store)
        assert holder.next_index == before + 1
        rows = await h.read_business()
        assert rows.count(key) == 1, f"after {patience} steps the row is there {rows.count(key)} times"
    assert await _recorded(h.second, "run") == set(await h.read_business())
