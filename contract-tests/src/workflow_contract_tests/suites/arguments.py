"""ARG: bad arguments are refused by name, before anything is written. Good ones of every shape are accepted."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from typing import Any

from workflow_runtime.errors import InvalidArgumentError
from workflow_runtime.store import (
    Awaited,
    NewEvent,
    Timer,
    WorkflowExecutionStore,
    WorkflowVersion,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..levels import SCHEDULE_VERBS
from ..samples import LEASE_MS, MANY, events
from ..scenarios import claim, claim_due, claim_pending, create, observe, record, start, start_waiting
from ..ticking import has_schedules, upsert
from ..verbs import APPEND_EVENTS, CLAIM_VERBS, MARK_RUN_PAUSED, ClaimVerb, LeaseVerb

_MAX_MS = 2**53 - 1
_WITHOUT_ARGUMENTS = {"capabilities", "ensure_schema", "check_schema", "read_clock"}

_SIGNATURES = {
    name: inspect.signature(member).parameters
    for name, member in inspect.getmembers(WorkflowExecutionStore, inspect.isfunction)
    if not name.startswith("_") and name not in _WITHOUT_ARGUMENTS
}
"""Every verb of the contract that takes arguments, read from the contract itself."""

_IDS = {
    "run_id",
    "new_run_id",
    "workflow_id",
    "workflow_version",
    "operation_id",
    "queue",
    "owner",
    "lease_token",
    "timer_id",
    "signal_id",
    "name",
    "approval_id",
    "retry_id",
    "schedule_id",
}
_ID_LISTS = {"workflow_ids", "queues", "removed_timers", "run_ids"}
_LIMITS = {"limit", "history_limit", "history_bytes", "max_bytes"}

_BAD_IDS: tuple[Any, ...] = ("", "a" * 513, "é" * 257, "a\0b", "\0", "a\ud800", "\udfff", 7, b"bytes", ["list"])
_BAD_TIMES: tuple[Any, ...] = (-1, -(10**12), 2**53, 2**64, 1.0, 1.5, float("nan"), "1", True)


def _valid_arguments(h: StoreHarness) -> dict[str, Any]:
    """Return a valid value for every argument of every verb."""
    return {
        "run_id": "subject",
        "new_run_id": "forked",
        "from_index": 0,
        "workflow_id": "orders",
        "workflow_version": "1",
        "operation_id": "operation",
        "queue": "default",
        "owner": "worker",
        "lease_token": "token",
        "timer_id": "timer",
        "signal_id": "signal",
        "name": "go",
        "approval_id": "ok",
        "retry_id": "retry",
        "schedule_id": "schedule",
        "input": "null",
        "output": "null",
        "error": "null",
        "payload": "null",
        "spec": "null",
        "approved": True,
        "now_ms": h.now_ms,
        "available_at_ms": None,
        "fire_at_ms": h.now_ms,
        "next_fire_at_ms": h.now_ms,
        "finished_before_ms": h.now_ms,
        "expected_next_index": 0,
        "seen_inbox_seq": 0,
        "expected_revision": 1,
        "lease_ms": LEASE_MS,
        "max_crashes": 3,
        "limit": 5,
        "action": "skip",
        "fire_times_ms": (h.now_ms,),
        "event": NewEvent(kind="retried"),
        "run_ids": ("subject",),
        "leases": (("subject", "token"),),
        "runs": (),
        "signals": (),
        "events": (),
    }


def _arguments(h: StoreHarness, verb: str, **overrides: Any) -> dict[str, Any]:
    """Return the required arguments of a verb, and those that the case adds."""
    valid = _valid_arguments(h)
    required = {
        name: valid[name]
        for name, parameter in _SIGNATURES[verb].items()
        if name != "self" and parameter.default is inspect.Parameter.empty
    }
    if verb == "create_run":
        claiming = {"owner", "lease_ms"} & overrides.keys()
        required |= {"owner": "worker", "lease_ms": LEASE_MS} if claiming else {}
    return required | overrides


def _times(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith("_ms") and name != "fire_times_ms"]


def _is_optional(verb: str, name: str) -> bool:
    return "None" in str(_SIGNATURES[verb][name].annotation)


async def _everything(h: StoreHarness) -> Any:
    runs = (await h.second.list_runs(limit=MANY)).runs
    schedules = await h.second.list_schedules(limit=MANY) if await has_schedules(h) else None
    return (await observe(h, *(run.run_id for run in runs)), schedules)


async def _call(h: StoreHarness, verb: str, arguments: dict[str, Any]) -> Any:
    # By name, unlike in the other suites: the verbs are read from the contract, so that no new one escapes.
    return await getattr(h.store, verb)(**arguments)


async def _refuses(h: StoreHarness, verb: str, name: str, value: Any) -> None:
    arguments = _arguments(h, verb, **{name: value})
    with refused(InvalidArgumentError, f"{verb}({name}={value!r})"[:120]) as refusal:
        await _call(h, verb, arguments)
    named = refusal.error.argument
    assert named == name or named.startswith(f"{name}."), f"{verb}({name}=…) was refused as {named!r}"


async def _populate(h: StoreHarness) -> None:
    """Create a run for each claim, so that a verb that writes before it checks has something to write to."""
    await start(h, "subject", lease_ms=1)
    await create(h, "queued")
    await start_waiting(h, run_id="due", timers={"t": h.now_ms})
    ended = await start(h, "ended")
    await ended.finish()
    if await has_schedules(h):
        await upsert(h, "due")
    h.advance(10)


@clause(
    "ARG-1",
    each=sorted(verb for verb, found in _SIGNATURES.items() if (_IDS | _ID_LISTS) & found.keys()),
    schedules=SCHEDULE_VERBS,
)
async def bad_ids_are_refused(h: StoreHarness, verb: str) -> None:
    """Every id argument of the verb refuses what is no id, by its name, and nothing is written."""
    await _populate(h)
    before = await _everything(h)
    for name in _SIGNATURES[verb]:
        if name in _IDS:
            for value in (*_BAD_IDS, *(() if _is_optional(verb, name) else (None,))):
                await _refuses(h, verb, name, value)
        if name in _ID_LISTS:
            for value in _BAD_IDS[:7]:
                await _refuses(h, verb, name, ["fine", value])
    assert await _everything(h) == before, f"a refused {verb} wrote something"


@clause("ARG-1")
async def bad_ids_inside_values_are_refused(h: StoreHarness) -> None:
    """Events, timers and awaited entries refuse what is no id when they are made."""
    for bad in ("", "a" * 513, "a\0b", "\ud800", 7):
        value: Any = bad
        with refused(InvalidArgumentError, f"an event of kind {bad!r}"[:80]):
            NewEvent(kind=value)
        with refused(InvalidArgumentError, f"an event with step id {bad!r}"[:80]):
            NewEvent(kind="k", step_id=value)
        with refused(InvalidArgumentError, f"a timer {bad!r}"[:80]):
            Timer(timer_id=value, fire_at_ms=1)
        with refused(InvalidArgumentError, f"an awaited signal {bad!r}"[:80]):
            Awaited(kind="signal", name=value, step_id="s")


_GOOD_IDS = (
    "a" * 512,
    "é" * 256,
    "😀" * 128,
    " ",
    " a",
    "a ",
    "A",
    "a",
    "ä",
    "a\u0308",
    "a\nb",
    "\x7f",
    "\ufeff",
    "\u202e",
    "%",
    "_",
    "'",
    '"',
    "\\",
    "null",
    "0",
    "00",
    "0x0",
    "1e3",
    "a/b?c#d",
    "--",
    "\U0010ffff",
    "￿",
)
"""Ids that a database might change, or take for one another."""


@clause("ARG-1", "RUN-6", "PAYLOAD-1")
async def good_ids_come_back(h: StoreHarness) -> None:
    """Ids of every shape, up to 512 bytes, come back as they are and are never taken for one another."""
    for one in _GOOD_IDS:
        await create(h, one, workflow_id=one, workflow_version=one, queue=one)
    for one in _GOOD_IDS:
        run = await record(h, one)
        assert (run.run_id, run.workflow_id, run.workflow_version, run.queue) == (one, one, one, one)
        version = WorkflowVersion(workflow_id=one, version=one)
        batch = await claim_pending(h, owner=one, queues=[one], workflows=[version])
        assert [(c.run.run_id, c.lease.owner) for c in batch.claims] == [(one, one)]
        assert sum((await h.store.count_runs(workflow_ids=[one], queues=[one])).values()) == 1


@clause("ARG-1", "TIMER-1", "SIGNAL-2", "APPROVAL-2")
async def good_ids_of_parts_come_back(h: StoreHarness) -> None:
    """Ids of timers, signals, approvals and steps of every shape come back as they are."""
    holder = await start(h)
    await holder.append(
        events=[NewEvent(kind=one, step_id=one) for one in _GOOD_IDS],
        set_timers=[Timer(timer_id=one, fire_at_ms=h.now_ms + number) for number, one in enumerate(_GOOD_IDS)],
    )
    for one in _GOOD_IDS:
        assert (await holder.signal(one, one)).kind == "buffered", f"the signal id {one!r} was taken for another"
        decision = await h.store.deliver_approval(run_id=holder.run_id, approval_id=one, approved=True, now_ms=h.now_ms)
        assert decision.kind == "buffered", f"the approval id {one!r} was taken for another"
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert [(e.kind, e.step_id) for e in execution.history] == [(one, one) for one in _GOOD_IDS]
    assert sorted(t.timer_id for t in execution.timers) == sorted(_GOOD_IDS)
    assert [(e.kind, e.name, e.delivery_id) for e in execution.inbox] == [
        (kind, one, one) for one in _GOOD_IDS for kind in ("signal", "approval")
    ]


@clause("SCHEDULE-1", "ARG-1")
async def good_ids_of_schedules_come_back(h: StoreHarness) -> None:
    """Ids of schedules of every shape come back as they are."""
    for one in _GOOD_IDS:
        upserted = await upsert(h, one)
        assert upserted.schedule is not None
        assert (upserted.kind, upserted.schedule.schedule_id) == ("created", one)


@clause(
    "ARG-2",
    each=sorted(verb for verb, found in _SIGNATURES.items() if _LIMITS & found.keys()),
    schedules=SCHEDULE_VERBS,
)
async def negative_limits_are_refused(h: StoreHarness, verb: str) -> None:
    """Every limit of the verb refuses a negative number, and nothing is written."""
    await _populate(h)
    before = await _everything(h)
    for name in _LIMITS & _SIGNATURES[verb].keys():
        for value in (-1, -(10**9)):
            await _refuses(h, verb, name, value)
    assert await _everything(h) == before, f"a refused {verb} wrote something"


@clause("ARG-2", each=sorted(verb for verb, found in _SIGNATURES.items() if "limit" in found), schedules=SCHEDULE_VERBS)
async def limit_of_zero_does_nothing(h: StoreHarness, verb: str) -> None:
    """A limit of 0 returns, claims and deletes nothing."""
    await _populate(h)
    before = await _everything(h)
    extra = {"finished_before_ms": h.now_ms + 10**6} if verb == "prune_runs" else {}
    run_id = {"run_id": "ended"} if "run_id" in _SIGNATURES[verb] else {}
    answer = await _call(h, verb, _arguments(h, verb, limit=0, **extra, **run_id))
    for part in ("claims", "dead", "corrupt", "runs", "schedules", "buckets"):
        assert getattr(answer, part, ()) == (), f"{verb} with a limit of 0 gave {part}"
    if verb == "get_run_timeline":
        assert {entry.source for entry in answer.entries} <= {"run", "timer"}
    elif isinstance(answer, tuple | int):
        assert answer in {(), 0}, f"{verb} with a limit of 0 answered {answer}"
    assert await _everything(h) == before, f"{verb} with a limit of 0 changed something"


@clause("ARG-3", each=sorted(verb for verb, found in _SIGNATURES.items() if _times(found)), schedules=SCHEDULE_VERBS)
async def bad_times_are_refused(h: StoreHarness, verb: str) -> None:
    """Every time and duration of the verb refuses what is no integer from 0 to 2^53 - 1, and nothing is written."""
    await _populate(h)
    before = await _everything(h)
    for name in _times(_SIGNATURES[verb]):
        for value in (*_BAD_TIMES, *(() if _is_optional(verb, name) else (None,))):
            await _refuses(h, verb, name, value)
    assert await _everything(h) == before, f"a refused {verb} wrote something"


@clause("ARG-3", each=(APPEND_EVENTS, MARK_RUN_PAUSED))
async def bad_times_of_timers_are_refused(h: StoreHarness, verb: LeaseVerb) -> None:
    """A timer at no time is refused with the whole write."""
    holder = await start(h)
    for bad in _BAD_TIMES:
        value: Any = bad
        with refused(InvalidArgumentError, f"{verb} with a timer at {bad!r}") as refusal:
            await verb.call(holder, set_timers=[Timer(timer_id="t", fire_at_ms=value)])
        assert refusal.error.argument.startswith("set_timers")
    execution = await h.second.load_execution(run_id=holder.run_id)
    assert execution is not None
    assert execution.timers == ()
    assert execution.run.status == "running"


@clause("ARG-3", "TIMER-1", "RUN-1")
async def last_moment_is_carried(h: StoreHarness) -> None:
    """The first and the last moment of time, 0 and 2^53 - 1, are times like any other."""
    late = await create(h, "late", available_at_ms=_MAX_MS)
    await create(h, "last", available_at_ms=_MAX_MS - 1)
    early = await create(h, "early", now_ms=0)
    assert (late.due_at_ms, early.created_at_ms, early.due_at_ms) == (_MAX_MS, 0, 0)
    batch = await claim_pending(h)
    assert [c.run.run_id for c in batch.claims] == ["early"]
    assert batch.next_due_ms == _MAX_MS - 1
    holder = await start_waiting(h, timers={"t": _MAX_MS})
    assert (await record(h, holder.run_id)).due_at_ms == _MAX_MS
    assert (await claim_due(h)).next_due_ms == _MAX_MS
    taken = (await claim(h, "last", now_ms=_MAX_MS - 1, lease_ms=1)).claim
    assert (taken.run.updated_at_ms, taken.lease.expires_at_ms) == (_MAX_MS - 1, _MAX_MS)


@clause("ARG-3", "OP-1", "LEASE-1")
async def leases_end_within_time(h: StoreHarness) -> None:
    """A lease may end at the last moment of time, and each answer says so exactly, also the second one."""
    now_ms, lease_ms = _MAX_MS - 1_001, 1_001
    for run_id in ("a", "b"):
        holder = await start(h, run_id, now_ms=now_ms, lease_ms=1)
        moments: dict[str, Any] = {"now_ms": now_ms, "lease_ms": lease_ms}
        operation: dict[str, Any] = {"operation_id": "o", "expected_next_index": 0, "events": events("1"), **moments}
        fence: dict[str, Any] = {"run_id": holder.run_id, "lease_token": holder.token}
        first = await h.store.append_events(**fence, **operation)
        again = await h.second.append_events(**fence, **operation)
        renewed = await h.store.heartbeat_run_lease(**fence, **moments)
        run = await record(h, holder.run_id)
        ends = (first.lease_expires_at_ms, again.lease_expires_at_ms, renewed.lease_expires_at_ms)
        assert (*ends, run.lease_expires_at_ms) == (_MAX_MS,) * 4
        assert all(type(end) is int for end in ends)


@clause(
    "ARG-3",
    each=sorted(verb for verb, found in _SIGNATURES.items() if {"now_ms", "lease_ms"} <= found.keys()),
    schedules=SCHEDULE_VERBS,
)
async def leases_beyond_time_are_refused(h: StoreHarness, verb: str) -> None:
    """A lease that would end after the last moment of time is refused, and nothing is written."""
    await _populate(h)
    before = await _everything(h)
    for now_ms, lease_ms in ((_MAX_MS, 1), (_MAX_MS - 9, 10), (1, _MAX_MS), (_MAX_MS, _MAX_MS)):
        arguments = _arguments(h, verb, now_ms=now_ms, lease_ms=lease_ms)
        with refused(InvalidArgumentError, f"{verb} at {now_ms} for {lease_ms} ms") as refusal:
            await _call(h, verb, arguments)
        assert refusal.error.argument == "lease_ms"
    assert await _everything(h) == before, f"a refused {verb} wrote something"


@clause("ARG-2", "CLAIM-2", each=CLAIM_VERBS)
async def huge_limits_are_taken(h: StoreHarness, verb: ClaimVerb) -> None:
    """The greatest limits mean all there is; no number makes a database's arithmetic overflow."""
    await _populate(h)
    huge: dict[str, Any] = {"limit": _MAX_MS, "history_limit": _MAX_MS, "history_bytes": _MAX_MS}
    assert len((await verb.call(h, **huge)).claims) == 1
    assert len(await h.store.read_events(run_id="ended", limit=_MAX_MS, max_bytes=_MAX_MS, from_index=_MAX_MS)) == 0
    assert len((await h.store.list_runs(limit=_MAX_MS)).runs) == 4


@clause("ARG-2", "ARG-1")
async def contract_is_covered(h: StoreHarness) -> None:
    """Every argument of every verb of the contract has a valid value here, so that no new verb escapes."""
    valid = _valid_arguments(h)
    missing = {
        f"{verb}({name})"
        for verb, parameters in _SIGNATURES.items()
        for name, parameter in parameters.items()
        if name != "self" and parameter.default is inspect.Parameter.empty and name not in valid
    }
    assert not missing, f"arguments that this suite does not know: {sorted(missing)}"
