"""PAYLOAD: payloads come back as they were, character for character, from every verb that carries them."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, PayloadTooLargeError
from workflow_runtime.payloads import JsonText, encode_json
from workflow_runtime.store import Existing, NewEvent, SignalToDeliver, WorkflowVersion, approval_payload

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..levels import SCHEDULE_VERBS
from ..samples import LEASE_MS, MANY, event, events
from ..scenarios import (
    claim,
    claim_due,
    claim_pending,
    claim_stale,
    create,
    create_arguments,
    observe,
    record,
    run_to_create,
    start,
    start_waiting,
)
from ..ticking import has_schedules

_LARGE = 10**9

_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    "",
    "123",
    "null",
    "{}",
    "[]",
    '"',
    "\x00",
    "before\x00after",
    "\ud800",
    "\udfff\ud800 lone and swapped",
    "😀 \u2028\u2029 \x7f é é ß İ \ufeff",
    "'; DROP TABLE workflow_runs; --",
    "%s ?1 $1 :a {0} \\ \\u0041",
    0,
    -1,
    2**53 + 1,
    -(2**63),
    10**40,
    0.1,
    -0.0,
    5e-324,
    1.7976931348623157e308,
    1.0,
    {},
    [],
    [None, [[]], {}],
    {"": "", "b": 1, "a": {"z": 1, "y": 2}, "B": 3},
    {"10": 1, "9": 2, "1": 3},
    {"__proto__": {"x": 1}, "\x00": "\ud800", "a.b": 1, "$ref": "#"},
    ["x" * 100_000],
)
TORTURE = (
    *(encode_json(value) for value in _VALUES),
    JsonText("[" * 200 + "]" * 200),
    JsonText('{"a":' * 150 + "null" + "}" * 150),
    # Texts that encode_json would not write, but another codec might: a store keeps the text, not the value.
    *(JsonText(text) for text in ('{ "a" : [1,\t2 ] }', '{"a":1,"a":2}', "1E2", "1.50", '"\\/\\u0041"')),
)
"""Documents that stores have been seen to change."""


async def _of_create(h: StoreHarness, text: JsonText) -> list[Any]:
    run = await create(h, input=text, queue="torture")
    again = await h.store.create_run(**create_arguments(h, run_id=run.run_id, input=text))
    assert isinstance(again, Existing)
    assert again.differs == (), "an input differs from itself"
    loaded = await h.second.load_execution(run_id=run.run_id)
    taken = await claim_pending(h, queues=["torture"])
    timeline = await h.store.get_run_timeline(run_id=run.run_id)
    assert loaded is not None
    seen = [run.input, again.run.input, loaded.run.input, *(c.run.input for c in taken.claims)]
    return [*seen, (await record(h, run.run_id)).input, timeline.entries[0].detail]


async def _of_creation_with_a_claim(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start(h, input=text, lease_ms=1)
    swept = await claim_stale(h, now_ms=h.advance(1))
    again = LeaseHolder.of(h, swept.claims[0])
    await again.pause(timers={"t": h.now_ms})
    due = await claim_due(h)
    await LeaseHolder.of(h, due.claims[0]).finish()
    return [holder.claim.run.input, swept.claims[0].run.input, due.claims[0].run.input]


async def _of_append(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start(h)
    await holder.append(text, text)
    return await _seen_in_the_log(h, holder)


async def _of_pause(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start(h)
    await holder.pause(events=events(text, text))
    return await _seen_in_the_log(h, holder)


async def _seen_in_the_log(h: StoreHarness, holder: LeaseHolder) -> list[Any]:
    page = await h.second.read_events(run_id=holder.run_id, limit=9, max_bytes=_LARGE)
    loaded = await h.second.load_execution(run_id=holder.run_id, history_bytes=_LARGE)
    timeline = await h.store.get_run_timeline(run_id=holder.run_id)
    await h.store.cancel_run(run_id=holder.run_id, now_ms=h.advance(LEASE_MS))
    taken = (await claim(h, holder.run_id, history_bytes=_LARGE)).claim
    assert loaded is not None
    assert len(page) == len(loaded.history) == len(taken.history) == 2
    logged = [e.detail for e in timeline.entries if e.source == "log"]
    return [*(e.payload for e in (*page, *loaded.history, *taken.history)), *logged]


async def _of_finish(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start(h)
    await holder.finish(text, events=events(text))
    (logged,) = await h.second.read_events(run_id=holder.run_id, limit=9, max_bytes=_LARGE)
    return [(await record(h, holder.run_id)).output, logged.payload]


async def _of_error(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start(h)
    await holder.fail(text, events=events(text))
    (logged,) = await h.second.read_events(run_id=holder.run_id, limit=9, max_bytes=_LARGE)
    return [(await record(h, holder.run_id)).error, logged.payload]


async def _of_signal(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start_waiting(h)
    await holder.signal("go", "s", text)
    (entry,) = await h.second.read_inbox(run_id=holder.run_id, limit=9, max_bytes=_LARGE)
    loaded = await h.second.load_execution(run_id=holder.run_id)
    timeline = await h.store.get_run_timeline(run_id=holder.run_id)
    taken = (await claim(h, holder.run_id)).claim
    assert loaded is not None
    shown = [e.detail for e in timeline.entries if e.source == "inbox"]
    return [entry.payload, loaded.inbox[0].payload, taken.inbox[0].payload, *shown]


async def _of_many_creations(h: StoreHarness, text: JsonText) -> list[Any]:
    run = run_to_create(h, input=text)
    for again in (run, replace(run, operation_id=h.new_id("op"))):
        (answer,) = await h.store.create_runs(runs=[again], now_ms=h.now_ms)
        assert getattr(answer, "differs", ()) == (), "an input differs from itself"
    return [(await record(h, run.run_id)).input, (await claim(h, run.run_id)).claim.run.input]


async def _of_many_signals(h: StoreHarness, text: JsonText) -> list[Any]:
    holder = await start_waiting(h)
    signal = SignalToDeliver(run_id=holder.run_id, signal_id="s", name="go", payload=text)
    await h.store.deliver_signals(signals=[signal], now_ms=h.now_ms)
    (entry,) = await h.second.read_inbox(run_id=holder.run_id, limit=9, max_bytes=_LARGE)
    return [entry.payload, (await claim(h, holder.run_id)).claim.inbox[0].payload]


async def _of_schedule(h: StoreHarness, text: JsonText) -> list[Any]:
    schedule_id, run_id = h.new_id("schedule"), h.new_id("tick")
    answer = await h.store.upsert_schedule(
        schedule_id=schedule_id,
        workflow_id="w",
        workflow_version="1",
        spec=text,
        input=text,
        next_fire_at_ms=h.now_ms,
        now_ms=h.now_ms,
    )
    got = await h.second.get_schedule(schedule_id=schedule_id)
    listed = (await h.second.list_schedules(limit=MANY)).schedules[-1]
    claims = await h.second.claim_due_schedule_buckets(owner="w", lease_ms=LEASE_MS, now_ms=h.now_ms, limit=1)
    (tick,) = claims.buckets
    await h.store.mark_schedule_bucket_started(
        schedule_id=schedule_id,
        fire_at_ms=h.now_ms,
        lease_token=tick.lease.token,
        operation_id=h.new_id("op"),
        expected_revision=1,
        action="start",
        run_id=run_id,
        now_ms=h.now_ms,
    )
    await h.store.delete_schedule(schedule_id=schedule_id)
    assert answer.schedule is not None
    shown = (answer.schedule, got, listed, tick.schedule)
    run = await record(h, run_id)
    return [*(s.spec for s in shown), *(s.input for s in shown), run.input]


_CARRIERS: dict[str, Callable[[StoreHarness, JsonText], Awaitable[list[Any]]]] = {
    "create_run": _of_create,
    "create_run-claimed": _of_creation_with_a_claim,
    "append_events": _of_append,
    "mark_run_paused": _of_pause,
    "mark_run_finished": _of_finish,
    "mark_run_errored": _of_error,
    "deliver_signal": _of_signal,
    "create_runs": _of_many_creations,
    "deliver_signals": _of_many_signals,
    "upsert_schedule": _of_schedule,
}


@clause("PAYLOAD-1", each=_CARRIERS, schedules=SCHEDULE_VERBS)
async def text_survives(h: StoreHarness, verb: str) -> None:
    """Every document comes back as the very text that went in, wherever it shows."""
    for text in TORTURE:
        for seen in await _CARRIERS[verb](h, text):
            assert seen == text, f"{verb} changed {text[:80]!r} into {str(seen)[:80]!r}"


@clause("PAYLOAD-3", each=_CARRIERS, schedules=SCHEDULE_VERBS)
async def largest_payload_is_carried(h: StoreHarness, verb: str) -> None:
    """A payload of exactly `max_payload_bytes` is carried; one of a byte more is refused before any write."""
    limit = h.store.capabilities.max_payload_bytes
    assert all(handle.capabilities == h.store.capabilities for handle in await h.handles(2))
    largest = JsonText('"' + "x" * (limit - 2) + '"')
    assert all(seen == largest for seen in await _CARRIERS[verb](h, largest)), "the largest payload came back changed"
    runs = (await h.store.list_runs(limit=MANY)).runs
    before = await observe(h, *(run.run_id for run in runs))
    with refused(PayloadTooLargeError, f"{verb} with {limit + 1} bytes of payload") as refusal:
        await _too_large(h, verb, JsonText('"' + "x" * (limit - 1) + '"'))
    assert (refusal.error.size, refusal.error.limit) == (limit + 1, limit)
    assert await observe(h, *(run.run_id for run in runs)) == before
    assert await _no_schedules(h)


async def _no_schedules(h: StoreHarness) -> bool:
    return not await has_schedules(h) or (await h.second.list_schedules(limit=1)).schedules == ()


async def _too_large(h: StoreHarness, verb: str, text: JsonText) -> None:
    """Try to write it, and assert that nothing was written."""
    try:
        if verb.startswith("create_run"):
            await h.store.create_run(**create_arguments(h, run_id="too-large", input=text))
        else:
            await _CARRIERS[verb](h, text)
    finally:
        assert await h.store.load_run(run_id="too-large") is None, "a refused creation left a run"
        for run in (await h.store.list_runs(limit=MANY)).runs:
            sizes = [len(e.payload or "") for e in await h.store.read_events(run_id=run.run_id, limit=9)]
            assert max(sizes, default=0) < len(text), "a refused payload is in the log"


_NO_JSON = (
    "{",
    "nope",
    " ",
    "'a'",
    "NaN",
    "[-Infinity]",
    "[1,]",
    "{a:1}",
    '{"a":1}{"b":2}',
    "null,",
    "01",
    ".5",
    '"a\\x"',
    '"a\tb"',
    '"open',
    '"é"',
    '"a\0b"',
    "[" * 251 + "]" * 251,
)


@clause("PAYLOAD-5", each=_CARRIERS, schedules=SCHEDULE_VERBS)
async def text_that_is_no_json_is_refused(h: StoreHarness, verb: str) -> None:
    """A text that is not JSON is refused by the argument's name, before anything is written, on every database."""
    for text in _NO_JSON:
        with refused(InvalidArgumentError, f"{verb} with {text[:20]!r}") as refusal:
            await _no_json(h, verb, JsonText(text))
        named = refusal.error.argument
        assert named.split(".")[-1] in {"input", "payload", "output", "error", "spec"}, f"refused as {named!r}"
    for run in (await h.second.list_runs(limit=MANY)).runs:
        execution = await h.second.load_execution(run_id=run.run_id)
        assert execution is not None
        kept = {event.payload for event in execution.history} | {entry.payload for entry in execution.inbox}
        kept |= {execution.run.output, execution.run.error}
        assert kept.isdisjoint(_NO_JSON), f"{verb} kept {kept & set(_NO_JSON)}"
    assert await _no_schedules(h)
    deepest = JsonText("[" * 250 + "]" * 250)
    assert all(seen == deepest for seen in await _CARRIERS[verb](h, deepest))


async def _no_json(h: StoreHarness, verb: str, text: JsonText) -> None:
    if not verb.startswith("create_run"):
        await _CARRIERS[verb](h, text)
        return
    claim: dict[str, Any] = {"owner": "worker", "lease_ms": LEASE_MS} if verb.endswith("claimed") else {}
    try:
        await h.store.create_run(**create_arguments(h, run_id="no-json", input=text, **claim))
    finally:
        assert await h.second.load_run(run_id="no-json") is None, "a refused creation left a run"


@clause("PAYLOAD-2", "PAYLOAD-1")
async def null_and_absent_stay_different(h: StoreHarness) -> None:
    """A payload that is absent comes back as absent, one that is `null` as `null`."""
    holder = await start(h)
    await holder.append(events=[event(None), event("null")])
    await holder.signal("go", "absent", None)
    await holder.signal("go", "null", "null")
    await holder.release()
    taken = (await claim(h, holder.run_id)).claim
    assert [e.payload for e in taken.history] == [None, "null"]
    assert [e.payload for e in taken.inbox] == [None, "null"]
    timeline = await h.second.get_run_timeline(run_id=holder.run_id)
    assert [e.detail for e in timeline.entries if e.source in {"log", "inbox"}] == [None, "null", None, "null"]
    assert (taken.run.output, taken.run.error) == (None, None)
    await LeaseHolder.of(h, taken).finish("null")
    run = await record(h, holder.run_id)
    assert (run.output, run.error) == ("null", None)


@clause("PAYLOAD-4", "ERROR-1")
async def nothing_is_shared(h: StoreHarness) -> None:
    """A change of an argument after the call, or of an answer, changes nothing in the store."""
    given: list[NewEvent] = events("1", "2")
    holder = await start(h)
    await holder.append(events=given)
    given.clear()
    await holder.signal()
    execution = await h.store.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert len(execution.history) == 2
    shown: tuple[Any, ...] = (execution, execution.run, *execution.history, *execution.inbox, holder.claim)
    for value in (*shown, holder.claim.lease):
        for name in (field.name for field in dataclasses.fields(value)):
            part = getattr(value, name)
            assert not isinstance(part, list | dict | set), f"{type(value).__name__}.{name} can be changed"
    counts = await h.store.count_runs()
    getattr(counts, "clear", dict)()
    assert sum((await h.store.count_runs()).values()) == 1
    filters = [WorkflowVersion(workflow_id="other", version="1")]
    assert (await claim_pending(h, workflows=filters)).claims == ()


_TEXTS = ("plain", "", "quotes \" ' \\", "line\nbreak\ttab", "😀 é é \u2028", "null", "{}", "%s ?1", "x" * 4_000)


@clause("PAYLOAD-1", "APPROVAL-1", "CANCEL-4", "FINISH-3")
async def words_of_people_survive(h: StoreHarness) -> None:
    """Comments, names and reasons come back as they went in."""
    for text in _TEXTS:
        approved, terminated, aborted = await start(h), await start(h), await start(h)
        await h.store.deliver_approval(
            run_id=approved.run_id, approval_id="a", approved=True, now_ms=h.now_ms, decided_by=text, comment=text
        )
        (entry,) = await h.second.read_inbox(run_id=approved.run_id, limit=9)
        assert entry.payload == approval_payload(approved=True, decided_by=text, comment=text)
        await h.store.terminate_run(run_id=terminated.run_id, now_ms=h.now_ms, reason=text)
        await aborted.fail(aborted=True, reason=text)
        for holder in (terminated, aborted):
            assert (await record(h, holder.run_id)).reason == text


@clause("PAYLOAD-3", "PAYLOAD-1")
async def largest_input_and_largest_output(h: StoreHarness) -> None:
    """One run carries the largest input, the largest events and the largest output together."""
    limit = h.store.capabilities.max_payload_bytes
    largest = JsonText('"' + "x" * (limit - 2) + '"')
    holder = await start(h, input=largest)
    await holder.append(largest, largest)
    await holder.finish(largest, events=events(largest))
    run = await record(h, holder.run_id)
    assert run.input == run.output == largest
    assert run.next_index == 3
    page = await h.second.read_events(run_id=holder.run_id, limit=9, max_bytes=1)
    assert [e.payload for e in page] == [largest]
