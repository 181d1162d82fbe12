"""RUN: creating and reading runs. PAUSE and FINISH: the writes that end a lease, each one unit."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LogConflictError
from workflow_runtime.store import (
    MAX_AWAITED_BYTES,
    MAX_TIMER_CHANGES,
    Awaited,
    Created,
    Existing,
    RunStatus,
    Timer,
    awaited_bytes,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS, event, events
from ..scenarios import (
    claim,
    claim_pending,
    create,
    create_arguments,
    observe,
    record,
    start,
    start_full,
    start_waiting,
    unchanged,
)
from ..verbs import APPEND_EVENTS, CLAIM_VERBS, MARK_RUN_ERRORED, MARK_RUN_FINISHED, MARK_RUN_PAUSED, LeaseVerb


@clause("RUN-1", "TIME-1")
async def new_run_is_queued(h: StoreHarness) -> None:
    """A new run is queued with the given facts, an empty log, an empty inbox, and due now."""
    run = await create(h, workflow_id="bills", workflow_version="7", queue="slow", priority=-5, input='{"a":1}')
    facts = (run.workflow_id, run.workflow_version, run.queue, run.priority, run.input, run.status)
    assert facts == ("bills", "7", "slow", -5, '{"a":1}', "queued")
    assert (run.next_index, run.inbox_seq, run.crashes, run.cancel_requested) == (0, 0, 0, False)
    assert (run.created_at_ms, run.updated_at_ms, run.due_at_ms) == (h.now_ms, h.now_ms, h.now_ms)
    assert (run.output, run.error, run.reason, run.awaited) == (None, None, None, ())
    assert (run.finished_at_ms, run.lease_owner, run.lease_expires_at_ms) == (None, None, None)
    execution = await h.second.load_execution(run_id=run.run_id)
    assert execution is not None
    assert (execution.run, execution.history, execution.inbox, execution.timers) == (run, (), (), ())


@clause("RUN-1")
async def new_run_is_due_when_asked(h: StoreHarness) -> None:
    """A run with `available_at_ms` is due then and not before."""
    later = h.now_ms + 60_000
    run = await create(h, available_at_ms=later)
    assert (run.status, run.due_at_ms) == ("queued", later)
    early = await claim_pending(h, now_ms=later - 1)
    assert early.claims == (), "a run was claimed one millisecond before its time"
    due = await claim_pending(h, now_ms=later)
    assert [taken.run.run_id for taken in due.claims] == [run.run_id]


@clause("RUN-2")
async def creation_and_claim_are_one_unit(h: StoreHarness) -> None:
    """A run created with a lease is running from the start, and the answer carries the claim."""
    answer = await h.store.create_run(**create_arguments(h, owner="worker-1", lease_ms=LEASE_MS))
    assert isinstance(answer, Created)
    taken = answer.claim
    assert taken is not None
    assert (taken.lease.owner, taken.lease.number) == ("worker-1", 1)
    assert taken.lease.expires_at_ms == h.now_ms + LEASE_MS
    assert (taken.history, taken.inbox, taken.due_timers) == ((), (), ())
    assert taken.run == answer.run == await record(h, answer.run.run_id)
    assert (answer.run.status, answer.run.lease_owner, answer.run.due_at_ms) == ("running", "worker-1", None)
    batch = await claim_pending(h, store=h.second)
    assert batch.claims == (), "a run created with a lease was claimable by others"


@clause("RUN-3")
async def known_id_changes_nothing(h: StoreHarness) -> None:
    """A known run id changes nothing, claims nothing, and brings the stored run."""
    holder = await start(h)
    await holder.append("1")
    await holder.release()
    async with unchanged(h, holder.run_id, after="a creation under a known id"):
        arguments = create_arguments(h, run_id=holder.run_id, now_ms=h.advance(1_000), queue="other", priority=9)
        plain = await h.second.create_run(**arguments)
        claiming = await h.second.create_run(
            **(arguments | {"operation_id": "other", "owner": "thief", "lease_ms": LEASE_MS})
        )
    for answer in (plain, claiming):
        assert isinstance(answer, Existing), f"a known id answered {answer.kind}"
        assert answer.run == await record(h, holder.run_id)
        assert answer.differs == ()


@clause("RUN-3")
async def known_id_says_what_differs(h: StoreHarness) -> None:
    """`differs` names workflow and input when they are others; inputs compare as JSON values."""
    stored = await create(h, input='{"a":1,"b":[1,2]}')
    same, other_type, other_float = '{"b":[1,2],"a":1}', '{"a":true,"b":[1,2]}', '{"a":1.0,"b":[1,2]}'
    expected = [
        ("orders", same, ()),
        ("orders", other_type, ("input",)),
        ("orders", other_float, ("input",)),
        ("orders", '{"a":1,"b":[2,1]}', ("input",)),
        ("bills", same, ("workflow_id",)),
        ("bills", "null", ("workflow_id", "input")),
    ]
    for workflow_id, given, differs in expected:
        answer = await h.store.create_run(
            **create_arguments(h, run_id=stored.run_id, workflow_id=workflow_id, input=given)
        )
        assert isinstance(answer, Existing)
        assert set(answer.differs) == set(differs), f"{workflow_id} with {given} differs in {answer.differs}"
        assert answer.run == stored


@clause("RUN-5", "OP-1")
async def repeated_creation_gives_the_first_answer(h: StoreHarness) -> None:
    """Repeating a creation with its operation id answers `created` again, with the same lease."""
    for lease in ({}, {"owner": "worker-1", "lease_ms": LEASE_MS}):
        arguments = create_arguments(h, **lease)
        first = await h.store.create_run(**arguments)
        async with unchanged(h, arguments["run_id"], after="the repeated creation"):
            repeat = await h.second.create_run(**(arguments | {"now_ms": h.advance(10)}))
        assert isinstance(first, Created)
        assert isinstance(repeat, Created), f"the repeated creation answered {repeat.kind}"
        assert repeat == first, f"first {first}\nrepeat {repeat}"


@clause("RUN-5", "OP-2")
async def repeated_creation_after_outside_calls(h: StoreHarness) -> None:
    """A creation is still repeatable after heartbeats, deliveries and a request to cancel."""
    arguments = create_arguments(h, owner="worker-1", lease_ms=LEASE_MS)
    first = await h.store.create_run(**arguments)
    assert isinstance(first, Created)
    assert first.claim is not None
    holder = LeaseHolder.of(h, first.claim)
    await holder.heartbeat(now_ms=h.advance(1_000))
    await holder.signal()
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    repeat = await h.store.create_run(**arguments)
    assert isinstance(repeat, Created), f"the repeated creation answered {repeat.kind}"
    assert repeat.claim is not None
    assert repeat.claim.lease.token == holder.token


@clause("RUN-5", "FENCE-3")
async def repeated_creation_never_hands_out_a_foreign_lease(h: StoreHarness) -> None:
    """A creation repeated after another worker took the run over brings no token that works."""
    arguments = create_arguments(h, owner="worker-1", lease_ms=1_000)
    await h.store.create_run(**arguments)
    h.advance(1_000)
    thief = await claim(h, arguments["run_id"], store=h.second)
    repeat = await h.store.create_run(**arguments)
    if isinstance(repeat, Created) and repeat.claim is not None:
        assert repeat.claim.lease.token != thief.token, "the repeat of a creation brought the next holder's token"
    await thief.append("1")


@clause("RUN-5", "RUN-3")
async def another_operation_is_no_repeat(h: StoreHarness) -> None:
    """The same call with another operation id, or after the driver's next write, answers `existing`."""
    arguments = create_arguments(h, owner="worker-1", lease_ms=LEASE_MS)
    first = await h.store.create_run(**arguments)
    assert isinstance(first, Created)
    assert first.claim is not None
    other = await h.store.create_run(**(arguments | {"operation_id": "another"}))
    assert isinstance(other, Existing), f"another operation answered {other.kind}"
    await LeaseHolder.of(h, first.claim).append("1")
    late = await h.store.create_run(**arguments)
    assert isinstance(late, Existing), f"a repeat after the driver's next write answered {late.kind}"


@clause("RUN-6")
async def load_run_reads_the_last_unit(h: StoreHarness) -> None:
    """`load_run` shows, through every handle, the run as the last committed unit left it."""
    assert await h.store.load_run(run_id="nobody") is None
    holder = await start(h)
    for handle in await h.handles(3):
        run = await handle.load_run(run_id=holder.run_id)
        assert run is not None
        assert run.status == "running"
    await holder.append("1", "2")
    assert (await record(h, holder.run_id)).next_index == 2
    await holder.finish('{"ok":true}', now_ms=h.advance(5))
    run = await record(h, holder.run_id)
    assert (run.status, run.output, run.finished_at_ms, run.updated_at_ms) == (
        "finished",
        '{"ok":true}',
        h.now_ms,
        h.now_ms,
    )


@clause("RUN-7")
async def load_execution_shows_everything(h: StoreHarness) -> None:
    """`load_execution` gives run, history, untaken inbox and timers, and claims nothing."""
    assert await h.store.load_execution(run_id="nobody") is None
    holder = await start(h)
    await holder.append('"one"', set_timers=[Timer(timer_id="late", fire_at_ms=h.now_ms + 9_000)])
    await holder.signal("go", "s1", '"hello"')
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert execution.run == await record(h, holder.run_id)
    assert [(e.index, e.payload, e.created_at_ms) for e in execution.history] == [(0, '"one"', h.now_ms)]
    assert [(e.inbox_seq, e.kind, e.name, e.delivery_id, e.payload, e.received_at_ms) for e in execution.inbox] == [
        (1, "signal", "go", "s1", '"hello"', h.now_ms)
    ]
    assert [(t.timer_id, t.fire_at_ms) for t in execution.timers] == [("late", h.now_ms + 9_000)]
    await holder.append("2")
    page = await h.second.load_execution(run_id=holder.run_id, history_limit=1)
    assert page is not None
    assert [e.index for e in page.history] == [0]
    assert page.run.next_index == 2


@clause("PAUSE-1")
async def pause_is_one_unit(h: StoreHarness) -> None:
    """A pause writes its events, timers, taken entries and awaited list, and ends the lease."""
    holder = await start(h)
    await holder.append(set_timers=[Timer(timer_id="old", fire_at_ms=h.now_ms + 1)], events=[])
    await holder.signal("go", "s1")
    answer = await holder.pause(
        signals=["next"],
        approvals=["boss"],
        timers={"b": h.now_ms + 9_000, "a": h.now_ms + 5_000},
        events=events('"p1"', '"p2"'),
        taken_inbox=[1],
        removed_timers=["old", "never-there"],
        seen_inbox_seq=1,
    )
    assert (answer.status, answer.next_index) == ("paused", 2)
    run = await record(h, holder.run_id)
    assert (run.status, run.next_index, run.due_at_ms) == ("paused", 2, h.now_ms + 5_000)
    assert (run.lease_owner, run.lease_expires_at_ms) == (None, None)
    assert {(a.kind, a.name, a.step_id) for a in run.awaited} == {
        ("signal", "next", "wait-next"),
        ("approval", "boss", "ask-boss"),
    }
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [e.payload for e in execution.history] == ['"p1"', '"p2"']
    assert execution.inbox == (), "an entry that the pause took is still in the inbox"
    assert sorted(t.timer_id for t in execution.timers) == ["a", "b"]


@clause("PAUSE-1")
async def pause_replaces_and_moves(h: StoreHarness) -> None:
    """A pause replaces the awaited list, moves a timer whose id is there, and without timers is due never."""
    holder = await start_waiting(h, signals=["one", "two"], timers={"t": h.now_ms + 1_000, "u": h.now_ms + 2_000})
    h.advance(1_000)
    again = await claim(h, holder.run_id)
    await again.pause(signals=["three"], timers={"t": h.now_ms + 5_000})
    run = await record(h, holder.run_id)
    assert [a.name for a in run.awaited] == ["three"]
    assert run.due_at_ms == h.now_ms + 1_000, "the run is not due at its earliest timer"
    third = await claim(h, holder.run_id, now_ms=h.advance(1_000))
    await third.pause(removed_timers=["t", "u"])
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.awaited) == ("paused", None, ())


@clause("PAUSE-1", "TIMER-1")
async def pause_is_due_at_the_earliest_timer_that_is_left(h: StoreHarness) -> None:
    """A pause that removes timers, or moves them, is due at the earliest of all that it leaves, new ones and others."""
    plan: list[tuple[list[str], dict[str, int], int]] = [
        (["a"], {}, 2),
        (["a", "b"], {}, 3),
        (["b"], {"c": 9}, 1),
        (["a"], {"b": 8, "d": 4}, 3),
        (["a", "x"], {"d": 1}, 1),
        (["a", "b", "c"], {"d": 7, "e": 6}, 6),
    ]
    for removed, new, earliest in plan:
        holder = await start(h)
        old = [Timer(timer_id=name, fire_at_ms=h.now_ms + at) for name, at in (("a", 1), ("b", 2), ("c", 3))]
        await holder.append(events=[], set_timers=old)
        await holder.pause(timers={name: h.now_ms + at for name, at in new.items()}, removed_timers=removed)
        due_at_ms = (await record(h, holder.run_id)).due_at_ms
        assert due_at_ms == h.now_ms + earliest, f"without {removed}, with {new}"


@clause("PAUSE-2", "CLAIM-9")
async def pause_with_unseen_inbox_queues(h: StoreHarness) -> None:
    """A pause that has not seen the newest inbox entry queues the run, and writes the rest all the same."""
    holder = await start(h)
    await holder.signal("anything")
    answer = await holder.pause(
        signals=["go"], timers={"t": h.now_ms + 5_000}, events=events('"p"'), now_ms=h.advance(10)
    )
    assert (answer.status, answer.next_index) == ("queued", 1)
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.next_index, run.lease_owner) == ("queued", h.now_ms, 1, None)
    batch = await claim_pending(h)
    assert [c.run.run_id for c in batch.claims] == [holder.run_id]
    assert [e.payload for e in batch.claims[0].history] == ['"p"']
    assert [e.name for e in batch.claims[0].inbox] == ["anything"]
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [t.timer_id for t in execution.timers] == ["t"]


@clause("PAUSE-2", "CANCEL-2")
async def pause_after_a_request_to_cancel_queues(h: StoreHarness) -> None:
    """A request to cancel that the driver has not seen keeps its run from being parked."""
    holder = await start(h)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    answer = await holder.pause(signals=["go"])
    assert answer.status is RunStatus.QUEUED, "the run was parked although a cancellation waits in its inbox"


@clause("PAUSE-3", "SIGNAL-1", "CLAIM-9")
async def delivery_before_or_after_a_pause_queues(h: StoreHarness) -> None:
    """A delivery just before a pause and one just after it both leave the run queued."""
    before = await start(h)
    await before.signal("go")
    await before.pause(signals=["go"])
    after = await start(h)
    await after.pause(signals=["go"])
    await after.signal("go")
    for holder in (before, after):
        run = await record(h, holder.run_id)
        assert (run.status, run.due_at_ms) == ("queued", h.now_ms)
    batch = await claim_pending(h)
    assert {c.run.run_id for c in batch.claims} == {before.run_id, after.run_id}
    assert all([e.name for e in c.inbox] == ["go"] for c in batch.claims)


def _longest_awaited_list() -> list[Awaited]:
    """Return an awaited list of the greatest size, with names short and long, of several scripts."""
    awaited: list[Awaited] = []
    room = MAX_AWAITED_BYTES
    for number in itertools.count():
        long = f"{number}:" + '😀é"\\' * 40
        name = long if number % 100 == 0 else f"order {number} ☃"
        size = awaited_bytes(name, f"wait:{name}")
        if room - size < 1_200:
            break
        room -= size
        awaited.append(Awaited(kind="signal", name=name, step_id=f"wait:{name}", until_ms=2**53 - 1))
    while room:
        size = room if room < 600 else 500
        room -= size
        name = f"fill {room}"
        awaited.append(Awaited(kind="approval", name=name, step_id="s" * (size - awaited_bytes(name, ""))))
    assert sum(awaited_bytes(item.name, item.step_id) for item in awaited) == MAX_AWAITED_BYTES
    return awaited


@clause("PAUSE-5")
async def longest_awaited_list_is_carried(h: StoreHarness) -> None:
    """An awaited list of the greatest size is kept whole; with one byte more nothing is written."""
    awaited = _longest_awaited_list()
    holder = await start(h)
    await holder.pause(awaited=awaited)
    assert (await record(h, holder.run_id)).awaited == tuple(awaited), "the awaited list came back changed"
    assert (await holder.signal(awaited[0].name)).kind == "delivered"
    other = await start(h)
    before = await observe(h, other.run_id)
    last = awaited.pop()
    awaited.append(Awaited(kind="approval", name=last.name, step_id=last.step_id + "s"))
    with refused(InvalidArgumentError, "an awaited list of one byte too many") as refusal:
        await other.pause(awaited=awaited)
    assert refusal.error.argument == "awaited"
    assert await observe(h, other.run_id) == before


@clause("LOG-8", "TIMER-1", each=(APPEND_EVENTS, MARK_RUN_PAUSED))
async def many_timers_in_one_call(h: StoreHarness, verb: LeaseVerb) -> None:
    """One call sets and removes the greatest number of timers, with long ids; one more is refused."""
    first, second = ([f"{number:08}" + f"{part}😀" * 100 for number in range(MAX_TIMER_CHANGES)] for part in "ab")
    holder = await start(h)
    timers = [Timer(timer_id=timer_id, fire_at_ms=h.now_ms) for timer_id in second]
    before = await observe(h, holder.run_id)
    too_many: list[tuple[str, Any]] = [
        ("set_timers", [*timers, Timer(timer_id="x", fire_at_ms=1)]),
        ("removed_timers", [*first, "x"]),
    ]
    for name, value in too_many:
        with refused(InvalidArgumentError, f"{verb} with {MAX_TIMER_CHANGES + 1} {name}") as refusal:
            await verb.call(holder, **{name: value})
        assert refusal.error.argument == name
    assert await observe(h, holder.run_id) == before
    await holder.append(set_timers=[Timer(timer_id=timer_id, fire_at_ms=h.now_ms) for timer_id in first])
    await verb.call(holder, set_timers=timers, removed_timers=first)
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert {timer.timer_id for timer in execution.timers} == set(second)


@clause("PAUSE-4", "FINISH-2", "LOG-1", each=(MARK_RUN_PAUSED, MARK_RUN_FINISHED, MARK_RUN_ERRORED))
async def ending_checks_the_length_of_the_log(h: StoreHarness, verb: LeaseVerb) -> None:
    """A write that ends the lease is refused, whole, when the log is not as long as the driver believes."""
    holder = await start_full(h)
    await holder.append("2")
    for wrong in (0, 1, 3, 1_000):
        async with unchanged(h, holder.run_id, after=f"a refused {verb}"):
            with refused(LogConflictError, f"{verb} at index {wrong} of a log of 2") as refusal:
                await verb.of(h.store)(**verb.everything(holder, expected_next_index=wrong))
        conflict = refusal.error
        assert (conflict.run_id, conflict.expected_next_index, conflict.actual_next_index) == (holder.run_id, wrong, 2)
    await verb.of(h.store)(**verb.everything(holder))
    assert (await record(h, holder.run_id)).next_index == 4


@clause("FINISH-1")
async def finish_is_one_unit(h: StoreHarness) -> None:
    """Finishing writes the last events and the output, ends the lease and removes the timers."""
    holder = await start(h)
    await holder.append("1", set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 10)])
    await holder.signal()
    await holder.finish('{"sum":3}', events=[event('"last"')], taken_inbox=[1], now_ms=h.advance(5))
    run = await record(h, holder.run_id)
    assert (run.status, run.output, run.error, run.reason) == ("finished", '{"sum":3}', None, None)
    assert (run.next_index, run.finished_at_ms, run.due_at_ms) == (2, h.now_ms, None)
    assert (run.lease_owner, run.lease_expires_at_ms, run.awaited) == (None, None, ())
    await _holds_no_more(h, holder, ["1", '"last"'])


@clause("FINISH-3")
async def error_is_one_unit(h: StoreHarness) -> None:
    """Erroring writes the last events and the error, ends the lease and removes the timers."""
    holder = await start(h)
    await holder.set_timer("t", fire_at_ms=h.now_ms + 10)
    await holder.signal()
    await holder.fail('{"type":"E"}', events=[event('"last"')], taken_inbox=[1], now_ms=h.advance(5))
    run = await record(h, holder.run_id)
    assert (run.status, run.output, run.error, run.reason) == ("errored", None, '{"type":"E"}', None)
    assert (run.finished_at_ms, run.due_at_ms, run.lease_owner) == (h.now_ms, None, None)
    await _holds_no_more(h, holder, ['"last"'])


@clause("FINISH-3")
async def cancelled_handler_ends_as_aborted(h: StoreHarness) -> None:
    """With `aborted` the run is aborted, with its reason."""
    holder = await start(h)
    await holder.set_timer("t", fire_at_ms=h.now_ms + 10)
    await holder.signal()
    await holder.fail('{"type":"C"}', aborted=True, reason="no longer wanted", taken_inbox=[1])
    run = await record(h, holder.run_id)
    assert (run.status, run.reason, run.error) == ("aborted", "no longer wanted", '{"type":"C"}')
    assert (run.finished_at_ms, run.lease_owner) == (h.now_ms, None)
    await _holds_no_more(h, holder, [])


async def _holds_no_more(h: StoreHarness, holder: LeaseHolder, payloads: list[str]) -> None:
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [e.payload for e in execution.history] == payloads
    assert execution.timers == (), "the ended run still has timers"
    assert execution.inbox == (), "an entry that the last write took is still in the inbox"
    for verb in CLAIM_VERBS:
        batch = await verb.call(h, now_ms=h.now_ms + 10**9)
        assert batch.claims == (), f"{verb} claimed a run that has ended"


@clause("RUN-2", "RUN-6")
async def every_field_survives_a_claim(h: StoreHarness) -> None:
    """The run in a claim and the run that is loaded are equal in every field."""
    holder = await start_waiting(h, signals=["go"], timers={"t": h.now_ms + 1_000})
    await holder.signal("go")
    taken = (await claim(h, holder.run_id)).claim
    loaded = await record(h, holder.run_id)
    for name in (field.name for field in dataclasses.fields(loaded)):
        assert getattr(taken.run, name) == getattr(loaded, name), f"the claim and the load differ in {name}"
