"""SIGNAL: an acknowledged signal is in the inbox once, in order, and wakes the run that waits for it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from workflow_runtime.payloads import JsonText
from workflow_runtime.store import AlreadyFinished, Buffered, Delivered, Duplicate, NotFound, NotWaiting

from ..cases import clause
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import LEASE_MS
from ..scenarios import (
    claim,
    claim_due,
    claim_pending,
    claim_stale,
    create,
    park,
    record,
    start,
    start_waiting,
    unchanged,
)


@clause("SIGNAL-1")
async def delivery_wakes_who_waits(h: StoreHarness) -> None:
    """A signal for a run paused waiting for its name queues the run, due now, and answers `delivered`."""
    holder = await start_waiting(h, signals=["go", "stop"], timers={"t": h.now_ms + 10**6})
    h.advance(7)
    answer = await holder.signal("stop", "s1", '{"why":1}')
    assert isinstance(answer, Delivered), f"a delivery to a waiting run answered {answer.kind}"
    assert answer.inbox_seq == 1
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.inbox_seq, run.updated_at_ms) == ("queued", h.now_ms, 1, h.now_ms)
    (taken,) = (await claim_pending(h)).claims
    (entry,) = taken.inbox
    assert (entry.kind, entry.name, entry.delivery_id, entry.payload) == ("signal", "stop", "s1", '{"why":1}')
    assert entry.received_at_ms == h.now_ms


@clause("SIGNAL-1")
async def other_names_do_not_wake(h: StoreHarness) -> None:
    """A signal that the paused run does not wait for is buffered and leaves it paused, due as before."""
    due = h.now_ms + 60_000
    holder = await start_waiting(h, signals=["go"], approvals=["yes"], timers={"t": due})
    for name in ("GO", "go ", "g", "%", "yes", "cancel"):
        answer = await holder.signal(name)
        assert isinstance(answer, Buffered), f"a signal {name!r} to a run that waits for 'go' answered {answer.kind}"
    run = await record(h, holder.run_id)
    assert (run.status, run.due_at_ms, run.inbox_seq) == ("paused", due, 6)


@clause("SIGNAL-1")
async def who_does_not_wait_buffers(h: StoreHarness) -> None:
    """A queued or running run buffers, keeps its status, its time and its lease, and finds the signal later."""
    later = h.now_ms + 60_000
    queued = await create(h, available_at_ms=later)
    answer = await h.second.deliver_signal(
        run_id=queued.run_id, signal_id="s", name="go", payload=None, now_ms=h.advance(1)
    )
    assert isinstance(answer, Buffered)
    run = await record(h, queued.run_id)
    assert (run.status, run.due_at_ms, run.inbox_seq) == ("queued", later, 1)
    running = await start(h)
    assert isinstance(await running.signal(), Buffered)
    assert (await record(h, running.run_id)).lease_owner == "worker-1"
    taken = await claim(h, queued.run_id, now_ms=later)
    assert [e.delivery_id for e in taken.claim.inbox] == ["s"]


@clause("SIGNAL-1", "PAUSE-1")
async def woken_run_waits_for_nothing(h: StoreHarness) -> None:
    """Once woken, a run is queued whatever else arrives; only its next pause says what it waits for."""
    holder = await start_waiting(h, signals=["go"])
    assert isinstance(await holder.signal("go"), Delivered)
    assert isinstance(await holder.signal("go"), Buffered)
    again = await claim(h, holder.run_id)
    assert isinstance(await holder.signal("go"), Buffered)
    again.seen = 3
    await again.pause(signals=["other"], taken_inbox=[1, 2, 3])
    assert isinstance(await holder.signal("go"), Buffered)
    assert isinstance(await holder.signal("other"), Delivered)


@clause("SIGNAL-2")
async def known_signal_is_a_duplicate(h: StoreHarness) -> None:
    """A known `signal_id` answers `duplicate` with its number, whatever the rest says, and changes nothing."""
    holder = await start_waiting(h)
    first = await holder.signal("go", "s1", "1")
    await holder.signal("more", "s2")
    async with unchanged(h, holder.run_id, after="a repeated signal"):
        for name, payload in (("go", "1"), ("other", "2"), ("go", None)):
            again = await holder.signal(name, "s1", payload)
            assert isinstance(again, Duplicate), f"a repeated signal answered {again.kind}"
            assert again.inbox_seq == first.inbox_seq == 1


@clause("SIGNAL-2")
async def duplicate_after_it_was_taken(h: StoreHarness) -> None:
    """A signal that the driver has taken into the log does not come again."""
    holder = await start_waiting(h)
    await holder.signal("go", "s1")
    again = await claim(h, holder.run_id)
    await again.pause(taken_inbox=[1], signals=["go"])
    async with unchanged(h, holder.run_id, after="a signal repeated after it was taken"):
        assert isinstance(await holder.signal("go", "s1"), Duplicate)
    assert (await record(h, holder.run_id)).status == "paused", "a taken signal woke the run a second time"


@clause("SIGNAL-2")
async def duplicate_after_the_end(h: StoreHarness) -> None:
    """A known signal answers `duplicate` also when the run has finished, failed, or was terminated."""
    ends: dict[str, Callable[[LeaseHolder], Awaitable[object]]] = {
        "finish": LeaseHolder.finish,
        "fail": LeaseHolder.fail,
        "terminate": lambda holder: h.second.terminate_run(run_id=holder.run_id, now_ms=h.now_ms),
    }
    for name, end in ends.items():
        holder = await start(h)
        await holder.signal("go", "s1")
        await end(holder)
        async with unchanged(h, holder.run_id, after="a delivery after the end"):
            assert isinstance(await holder.signal("go", "s1"), Duplicate), f"after {name}"
            late = await holder.signal("go", "s2")
            assert isinstance(late, AlreadyFinished), f"after {name} a new signal answered {late.kind}"


@clause("SIGNAL-2")
async def signal_ids_belong_to_their_run(h: StoreHarness) -> None:
    """One signal id may reach several runs."""
    one, two = await start(h), await start(h)
    assert isinstance(await one.signal("go", "same"), Buffered)
    assert isinstance(await two.signal("go", "same"), Buffered)


@clause("SIGNAL-3")
async def ended_and_unknown_runs_take_no_signals(h: StoreHarness) -> None:
    """`finished` says how the run ended; unknown, deleted and pruned runs are not found; a dead one buffers."""
    finished, aborted, deleted, pruned = [await start(h) for _ in range(4)]
    dead = await start(h, lease_ms=1, queue="doomed")
    h.advance(1)
    await park(h, dead, queues=["doomed"])
    await pruned.finish()
    await h.store.prune_runs(finished_before_ms=h.now_ms + 1, limit=1)
    await finished.finish()
    await aborted.fail(aborted=True)
    await h.store.delete_run(run_id=deleted.run_id, now_ms=h.now_ms, force=True)
    for holder, status in ((finished, "finished"), (aborted, "aborted")):
        answer = await holder.signal()
        assert isinstance(answer, AlreadyFinished)
        assert answer.status == status
    for holder in (deleted, pruned):
        assert isinstance(await holder.signal(), NotFound)
    assert isinstance(await dead.signal(), Buffered)
    unknown = await h.store.deliver_signal(run_id="nobody", signal_id="s", name="n", payload=None, now_ms=h.now_ms)
    assert isinstance(unknown, NotFound)


@clause("SIGNAL-4")
async def inbox_numbers_have_no_gaps(h: StoreHarness) -> None:
    """Signals, approvals and the request to cancel share one row of numbers: 1, 2, 3, in order of arrival."""
    holder = await start(h)
    first = await holder.signal("b", "s1")
    second = await h.store.deliver_approval(run_id=holder.run_id, approval_id="a1", approved=True, now_ms=h.now_ms)
    await holder.signal("b", "s1")
    third = await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    fourth = await holder.signal("a", "s0")
    answers = [getattr(answer, "inbox_seq", None) for answer in (first, second, third, fourth)]
    assert answers == [1, 2, 3, 4]
    entries = await h.second.read_inbox(run_id=holder.run_id, limit=10)
    assert [(e.inbox_seq, e.kind, e.delivery_id) for e in entries] == [
        (1, "signal", "s1"),
        (2, "approval", "a1"),
        (3, "cancel", "cancel"),
        (4, "signal", "s0"),
    ]
    await holder.append("1", taken_inbox=[1, 2, 3, 4])
    fifth = await holder.signal("b", "s5")
    assert fifth.inbox_seq == 5, "numbers go on after entries were taken"


@clause("SIGNAL-5")
async def only_if_waiting(h: StoreHarness) -> None:
    """With `only_if_waiting` a signal is delivered to a run that waits for it, or nothing is written."""
    waiting = await start_waiting(h, signals=["go"])
    running = await start(h)
    queued = await create(h)
    finished = await start(h)
    await finished.finish()
    plan: list[tuple[str, str, Any, str]] = [
        (waiting.run_id, "other", NotWaiting, "paused"),
        (running.run_id, "go", NotWaiting, "running"),
        (queued.run_id, "go", NotWaiting, "queued"),
        (finished.run_id, "go", AlreadyFinished, "finished"),
    ]
    for run_id, name, kind, status in plan:
        async with unchanged(h, run_id, after="a refused delivery"):
            answer = await _deliver_if_waiting(h, run_id, "s1", name)
        assert isinstance(answer, kind), f"{status} and {name!r}: {answer}"
        assert answer.status == status
    assert isinstance(await _deliver_if_waiting(h, "nobody", "s1", "go"), NotFound)
    assert isinstance(await _deliver_if_waiting(h, waiting.run_id, "s1", "go"), Delivered), (
        "a refused signal id must stay free"
    )
    assert isinstance(await _deliver_if_waiting(h, waiting.run_id, "s1", "go"), Duplicate)


async def _deliver_if_waiting(h: StoreHarness, run_id: str, signal_id: str, name: str) -> Any:
    return await h.second.deliver_signal(
        run_id=run_id, signal_id=signal_id, name=name, payload=None, now_ms=h.now_ms, only_if_waiting=True
    )


@clause("SIGNAL-6")
async def read_inbox_pages(h: StoreHarness) -> None:
    """`read_inbox` gives the untaken entries after a number, in order, bounded in number and in bytes."""
    holder = await start(h)
    for number in range(1, 7):
        await holder.signal("go", f"s{number}", '"12345678"')
    await holder.append("1", taken_inbox=[2])
    for arguments, expected in (
        ({"limit": 3}, [1, 3, 4]),
        ({"limit": 3, "after_seq": 4}, [5, 6]),
        ({"limit": 3, "after_seq": 6}, []),
        ({"limit": 0}, []),
        ({"limit": 9, "max_bytes": 25}, [1, 3]),
        ({"limit": 9, "max_bytes": 20}, [1, 3]),
        ({"limit": 9, "max_bytes": 1}, [1]),
        ({"limit": 9, "max_bytes": 0, "after_seq": 1}, [3]),
    ):
        entries = await h.second.read_inbox(run_id=holder.run_id, **arguments)
        assert [e.inbox_seq for e in entries] == expected, f"with {arguments}"
    assert await h.second.read_inbox(run_id="nobody", limit=3) == ()


@clause("SIGNAL-1", "SIGNAL-4")
async def inbox_survives_every_claim(h: StoreHarness) -> None:
    """An entry that no write has taken comes with every later claim, however many workers vanish."""
    holder = await start(h)
    await holder.signal("go", "s1", '"precious"')
    for _ in range(3):
        h.advance(LEASE_MS)
        (taken,) = (await claim_stale(h)).claims
        assert [(e.delivery_id, e.payload) for e in taken.inbox] == [("s1", '"precious"')]
        holder = LeaseHolder.of(h, taken)
    await holder.pause(signals=["never"])
    assert [e.delivery_id for e in await h.second.read_inbox(run_id=holder.run_id, limit=5)] == ["s1"]


@clause("SIGNAL-1", "CLAIM-9")
async def delivery_to_a_due_run_queues_it(h: StoreHarness) -> None:
    """A run whose timer is due as well is found by exactly one of the claims after a delivery."""
    holder = await start_waiting(h, timers={"t": h.now_ms + 1})
    h.advance(10)
    answer = await h.second.deliver_signal(
        run_id=holder.run_id, signal_id="s", name="go", payload=JsonText("null"), now_ms=h.now_ms
    )
    assert isinstance(answer, Delivered)
    due = (await claim_due(h)).claims
    pending = (await claim_pending(h)).claims
    assert len(due) + len(pending) == 1
