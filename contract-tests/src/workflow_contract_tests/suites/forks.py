"""FORK: a new run begins with the first part of another run's log, in one unit, and goes its own way."""

from __future__ import annotations

import asyncio
from typing import Any

from workflow_runtime.store import STATES, Existing, Forked, NewEvent, NotForkable, NotFound, RunStatus, Timer

from ..cases import clause
from ..harness import StoreHarness
from ..samples import MANY, event, events
from ..scenarios import claim, claim_stale, create, observe, record, start, start_full, start_waiting, unchanged
from ..settings import scaled
from ..tasks import all_of
from ..ticking import start_tick, upsert
from .status_table import in_state

_MARK = event('{"run_id":"source"}', kind="forked", step_id="here")


def _arguments(h: StoreHarness, run_id: str, from_index: int, **overrides: Any) -> dict[str, Any]:
    return {
        "run_id": run_id,
        "new_run_id": "fork",
        "from_index": from_index,
        "event": _MARK,
        "operation_id": h.new_id("op"),
        "now_ms": h.now_ms,
    } | overrides


async def _fork(h: StoreHarness, run_id: str, from_index: int, **overrides: Any) -> Any:
    return await h.store.fork_run(**_arguments(h, run_id, from_index, **overrides))


async def _log(h: StoreHarness, run_id: str = "fork") -> list[tuple[int, str, str | None, str | None, int]]:
    found = await h.second.read_events(run_id=run_id, limit=MANY)
    return [(one.index, one.kind, one.step_id, one.payload, one.created_at_ms) for one in found]


@clause("FORK-1", each=("0", "1", "2", "3"))
async def fork_begins_with_the_first_part_of_the_log(h: StoreHarness, length: str) -> None:
    """A fork has the copied events, then its own; it is queued, due now, with all that the other run was given."""
    from_index = int(length)
    holder = await start(h, queue="slow", priority=7, input='{"b":2,"a":1}', workflow_version="3")
    await holder.append('"a"', events=[event('"a"', step_id="s"), event(None)])
    h.advance(5)
    await holder.append('"c"')
    original = await _log(h, holder.run_id)
    h.advance(5)
    answer = await _fork(h, holder.run_id, from_index)
    assert isinstance(answer, Forked)
    run = await record(h, "fork")
    assert answer.run == run
    assert (run.workflow_id, run.workflow_version, run.input) == ("orders", "3", '{"b":2,"a":1}')
    assert (run.queue, run.priority, run.status, run.due_at_ms) == ("slow", 7, "queued", h.now_ms)
    assert (run.created_at_ms, run.updated_at_ms) == (h.now_ms, h.now_ms)
    assert (run.next_index, run.crashes) == (from_index + 1, 0)
    assert (run.forked_from_run_id, run.forked_from_index) == (holder.run_id, from_index)
    mark = (from_index, _MARK.kind, _MARK.step_id, _MARK.payload, h.now_ms)
    assert await _log(h) == [*original[:from_index], mark]


@clause("FORK-1")
async def fork_takes_over_nothing_else(h: StoreHarness) -> None:
    """A fork has no inbox, no timers, no request to end, no lease; the other run keeps them, and does not change."""
    holder = await start_full(h)
    await h.store.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    async with unchanged(h, holder.run_id, after="a fork"):
        await _fork(h, holder.run_id, 1)
    execution = await h.second.load_execution(run_id="fork")
    assert execution is not None
    run = execution.run
    assert (execution.inbox, execution.timers, run.inbox_seq, run.cancel_requested) == ((), (), 0, False)
    assert (run.lease_owner, run.output, run.error, run.reason, run.awaited) == (None, None, None, None, ())
    answer = await h.store.deliver_signal(run_id="fork", signal_id="s1", name="go", payload=None, now_ms=h.now_ms)
    assert (answer.kind, getattr(answer, "inbox_seq", None)) == ("buffered", 1), "the fork knows the other's signals"
    fork = await claim(h, "fork")
    assert [one.index for one in fork.claim.history] == [0, 1]
    assert (fork.claim.due_timers, fork.next_index) == ((), 2)
    await fork.append('"next"', set_timers=[Timer(timer_id="t", fire_at_ms=h.now_ms + 9)])
    await fork.pause()
    async with unchanged(h, "fork", after="the other run's end"):
        await holder.finish()
        await h.store.delete_run(run_id=holder.run_id, now_ms=h.now_ms)


@clause("FORK-1", "FORK-4", each=("queued", "paused", "finished", "errored", "aborted", "dead", "fork"))
async def runs_of_every_status_are_forked(h: StoreHarness, status: str) -> None:
    """A run can be forked in every status, and a fork can be forked too."""
    holder = await start(h, "source", lease_ms=1)
    await holder.append('"a"', '"b"')
    match status:
        case "queued":
            await holder.release()
        case "paused":
            await holder.pause(signals=["go"])
        case "finished":
            await holder.finish()
        case "errored":
            await holder.fail()
        case "aborted":
            await h.store.terminate_run(run_id="source", now_ms=h.now_ms)
        case "dead":
            await claim_stale(h, max_crashes=1, now_ms=h.now_ms + 10**6)
        case "fork":
            await _fork(h, "source", 1, new_run_id="between")
    run_id = "between" if status == "fork" else "source"
    assert isinstance(await _fork(h, run_id, 1), Forked)
    assert [payload for _, _, _, payload, _ in await _log(h)] == ['"a"', _MARK.payload]
    run = await record(h, "fork")
    assert (run.status, run.forked_from_run_id, run.forked_from_index) == ("queued", run_id, 1)


@clause("FORK-1", "SCHEDULE-13", schedules=True)
async def run_and_fork_know_their_tick(h: StoreHarness) -> None:
    """The run of a tick names schedule and moment, in each record of it; its fork does too, other runs do not."""
    await upsert(h)
    h.advance(70)
    tick = await start_tick(h, "tick-1")
    await _fork(h, "tick-1", 0)
    plain = await create(h)
    expected = ("nightly", tick.fire_at_ms)
    for run_id in ("tick-1", "fork"):
        run = (await claim(h, run_id)).claim.run
        assert (run.schedule_id, run.scheduled_at_ms) == expected, run_id
    execution = await h.second.load_execution(run_id="tick-1")
    assert execution is not None
    assert (execution.run.schedule_id, execution.run.scheduled_at_ms) == expected
    assert (await h.second.get_run_timeline(run_id="tick-1")).run.schedule_id == "nightly"
    await h.store.delete_schedule(schedule_id="nightly")
    assert (await record(h, "tick-1")).scheduled_at_ms == tick.fire_at_ms
    for other in (plain, await record(h, plain.run_id)):
        assert (other.schedule_id, other.scheduled_at_ms) == (None, None)
        assert (other.forked_from_run_id, other.forked_from_index) == (None, None)


@clause("FORK-1")
async def version_may_be_another(h: StoreHarness) -> None:
    """A fork with a version of its own is claimed by workers of that version."""
    holder = await start(h, workflow_version="1")
    await _fork(h, holder.run_id, 0, workflow_version="2")
    assert (await record(h, "fork")).workflow_version == "2"
    assert (await h.store.list_runs(limit=9, run_id_prefix="fork")).runs[0].workflow_version == "2"


@clause("FORK-3")
async def what_is_not_there_is_not_forked(h: StoreHarness) -> None:
    """A fork beyond the end of the log, or of an unknown run, writes nothing, and the answer says which it is."""
    holder = await start(h)
    await holder.append('"a"')
    async with unchanged(h, holder.run_id, "fork", after="a refused fork"):
        assert await _fork(h, holder.run_id, 2) == NotForkable(next_index=1)
        assert await _fork(h, holder.run_id, 2**40) == NotForkable(next_index=1)
        assert await _fork(h, "nobody", 0) == NotFound()
    assert await h.store.read_events(run_id="fork", limit=9) == ()
    assert [run.run_id for run in (await h.store.list_runs(limit=9)).runs] == [holder.run_id]


@clause("FORK-4")
async def known_id_is_not_forked_over(h: StoreHarness) -> None:
    """A taken id answers `existing` and what differs, whatever became of the other run, and changes nothing."""
    holder = await start(h, "source")
    await holder.append('"a"', '"b"')
    await _fork(h, "source", 1)
    other = await create(h, "other")
    async with unchanged(h, "fork", "source", "other", after="a fork of a known id"):
        same = await _fork(h, "source", 1, now_ms=h.advance(1))
        assert same == Existing(run=await record(h, "fork"), differs=())
        for asked, differs in (
            ({"from_index": 2}, ("from_index",)),
            ({"from_index": 99}, ("from_index",)),
            ({"run_id": "other", "from_index": 0}, ("run_id", "from_index")),
            ({"run_id": "nobody"}, ("run_id",)),
            ({"workflow_version": "9"}, ("workflow_version",)),
            ({"workflow_version": "1"}, ()),
        ):
            answer = await h.store.fork_run(**(_arguments(h, "source", 1) | asked))
            assert isinstance(answer, Existing), f"{asked}: {answer}"
            assert answer.differs == differs, f"{asked}: {answer.differs}"
        taken = await _fork(h, "source", 1, new_run_id=other.run_id)
        assert isinstance(taken, Existing)
        assert taken.differs == ("run_id", "from_index")
        itself = await _fork(h, "source", 1, new_run_id="source")
        assert isinstance(itself, Existing)
        assert itself.differs == ("run_id", "from_index")
    await holder.finish()
    await h.store.delete_run(run_id="source", now_ms=h.now_ms)
    assert (await _fork(h, "source", 1)).kind == "existing"


@clause("FORK-4", each=STATES)
async def answer_about_a_known_id_brings_its_run(h: StoreHarness, state: str) -> None:
    """A taken id answers `existing` with the run as it is stored, also with what a paused one waits for."""
    await start(h, "source")
    taken = await in_state(h, state, "taken")
    answer = await _fork(h, "source", 0, new_run_id=taken.run_id)
    assert answer == Existing(run=await record(h, taken.run_id), differs=("run_id", "from_index"))


@clause("FORK-4", "OP-1")
async def repeated_fork_answers_as_the_first(h: StoreHarness) -> None:
    """The same operation again answers `forked`, until a driver has written; it never forks twice."""
    holder = await start(h)
    await holder.append('"a"', '"b"')
    arguments = _arguments(h, holder.run_id, 2)
    first = await h.store.fork_run(**arguments)
    assert await h.second.fork_run(**(arguments | {"now_ms": h.advance(5)})) == first
    assert len(await _log(h)) == 3
    fork = await claim(h, "fork")
    assert (await h.second.fork_run(**arguments)).kind == "forked"
    await fork.append('"next"')
    again = await h.store.fork_run(**arguments)
    assert (again.kind, getattr(again, "differs", None)) == ("existing", ())
    assert [payload for _, _, _, payload, _ in await _log(h)] == ['"a"', '"b"', _MARK.payload, '"next"']


@clause("FORK-4")
async def many_forks_to_one_id_make_one(h: StoreHarness) -> None:
    """Of many forks to one id at once exactly one answers `forked`; the others get the run that it made."""
    handles = await h.handles(6)
    for round_ in range(scaled(8)):
        sources = [await start(h, f"source-{round_}-{number}") for number in range(2)]
        for holder in sources:
            await holder.append('"a"', '"b"')
        calls = [
            _arguments(h, sources[number % 2].run_id, 1 + number % 2, new_run_id=f"fork-{round_}")
            for number in range(len(handles))
        ]
        answers = await all_of(*(handle.fork_run(**call) for handle, call in zip(handles, calls, strict=True)))
        assert sorted(answer.kind for answer in answers) == ["existing"] * 5 + ["forked"]
        winner = next(call for call, answer in zip(calls, answers, strict=True) if answer.kind == "forked")
        run = await record(h, f"fork-{round_}")
        assert (run.forked_from_run_id, run.forked_from_index) == (winner["run_id"], winner["from_index"])
        assert len(await _log(h, run.run_id)) == run.next_index == winner["from_index"] + 1


@clause("FORK-2", "FORK-3")
async def fork_of_a_log_that_grows_is_whole(h: StoreHarness) -> None:
    """While a driver writes, each fork has exactly the events that it asked for, or none."""
    holder = await start(h, "source")
    handles = await h.handles(4)
    last = scaled(60)

    async def write() -> None:
        while holder.next_index < last:
            await holder.append(*(f'"{holder.next_index + number}"' for number in range(3)))
            await asyncio.sleep(0)

    async def fork(number: int) -> None:
        wanted = 0
        while wanted < last:
            name = f"fork-{number}-{wanted}"
            answer = await handles[number].fork_run(**_arguments(h, "source", wanted, new_run_id=name))
            if answer.kind == "forked":
                found = [payload for _, _, _, payload, _ in await _log(h, name)]
                assert found == [*(f'"{index}"' for index in range(wanted)), _MARK.payload], name
                wanted += 7
            else:
                assert isinstance(answer, NotForkable)
                assert answer.next_index < wanted
                assert await handles[number].load_run(run_id=name) is None
                await asyncio.sleep(0.01)  # a store that serves one caller at a time must also serve the driver

    await all_of(write(), *(fork(number) for number in range(4)))


@clause("FORK-1", "PAYLOAD-1")
async def payloads_of_a_fork_are_the_very_texts(h: StoreHarness) -> None:
    """The copied payloads and the payload of the fork's event come back as they went in."""
    holder = await start(h, input='{ "a" : 1.0 }')
    await holder.append('{ "b":\n1e3 }', '"\\u0000"', events=[*events('{ "b":\n1e3 }', '"\\u0000"'), event(None)])
    mark = NewEvent(kind="forked", payload=events('{"x": "\\ud800"}')[0].payload)
    await _fork(h, holder.run_id, 3, event=mark)
    assert (await record(h, "fork")).input == '{ "a" : 1.0 }'
    assert [payload for _, _, _, payload, _ in await _log(h)] == ['{ "b":\n1e3 }', '"\\u0000"', None, mark.payload]


@clause("FORK-1", "CLAIM-4")
async def fork_is_a_run_like_any_other(h: StoreHarness) -> None:
    """A fork is driven, waits, gets its own signals and timers, ends, and is listed and deleted."""
    holder = await start_waiting(h)
    await _fork(h, holder.run_id, 0)
    fork = await claim(h, "fork")
    await fork.pause(signals=["go"], timers={"t": h.now_ms + 100})
    async with unchanged(h, holder.run_id, after="a signal to the fork"):
        assert (await fork.signal()).kind == "delivered"
    fork = await claim(h, "fork")
    await fork.finish(taken_inbox=[1])
    assert (await record(h, "fork")).status is RunStatus.FINISHED
    assert (await h.store.count_runs())[RunStatus.FINISHED] == 1
    await h.store.delete_run(run_id="fork", now_ms=h.now_ms)
    seen = await observe(h, "fork")
    assert seen["fork"] == (None, None)
