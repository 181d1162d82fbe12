"""LIST: pages of many runs, and the timeline of one."""

from __future__ import annotations

import base64
import dataclasses
import itertools
import json
import random
from collections import Counter
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, RunNotFoundError
from workflow_runtime.store import AWAITED_SHOWN, Awaited, RunStatus, RunSummary, encode_schedule_cursor

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..samples import MANY
from ..scenarios import claim, create, record, start, start_waiting
from ..settings import SEED
from ..ticking import has_schedules


async def _pages(h: StoreHarness, limit: int, **filters: Any) -> list[RunSummary]:
    """Return a whole listing, read page by page through changing handles."""
    runs: list[RunSummary] = []
    cursor: str | None = None
    for number in itertools.count():
        assert number < MANY, "the listing has no end"
        handle = (h.store, h.second)[number % 2]
        page = await handle.list_runs(limit=limit, cursor=cursor, **filters)
        assert len(page.runs) <= limit
        runs += page.runs
        if page.next_cursor is None:
            return runs
        cursor = page.next_cursor
    raise AssertionError


_IDS = ["B", "a", "A", "a1", "a%", "a_b", "aXb", "a*", "é", "￿", "😀", "a\\", "a'", '"', "a￿", "a😀b"]


async def _populate(h: StoreHarness) -> list[RunSummary]:
    """Create runs of every status, some at one time. Return their summaries in the order of the listing."""
    chosen = random.Random(SEED)
    for run_id in chosen.sample(_IDS, len(_IDS)):
        kind = chosen.choice(["queued", "running", "paused", "finished", "errored"])
        facts = {"workflow_id": chosen.choice("wv"), "queue": chosen.choice("qp"), "priority": chosen.randint(-3, 3)}
        await _in_status(h, run_id, kind, facts)
        h.advance(chosen.choice([0, 1, 5]))
    loaded = [await record(h, run_id) for run_id in _IDS]
    return sorted((_summary(run) for run in loaded), key=lambda run: (run.created_at_ms, run.run_id))


async def _in_status(h: StoreHarness, run_id: str, kind: str, facts: dict[str, Any]) -> None:
    if kind == "queued":
        await create(h, run_id, **facts)
    elif kind == "paused":
        await start_waiting(h, run_id=run_id, **facts)
    else:
        holder = await start(h, run_id, **facts)
        if kind != "running":
            await (holder.finish() if kind == "finished" else holder.fail())


def _summary(run: RunSummary) -> RunSummary:
    return RunSummary(**{field.name: getattr(run, field.name) for field in dataclasses.fields(RunSummary)})


def _plain(runs: list[RunSummary]) -> list[RunSummary]:
    return [_summary(run) for run in runs]


@clause("LIST-1")
async def listing_is_ordered_by_creation(h: StoreHarness) -> None:
    """Pages of any size give all runs by creation and id (code points), with every field; backwards too."""
    expected = await _populate(h)
    for limit in (1, 3, MANY):
        assert _plain(await _pages(h, limit)) == expected, f"pages of {limit}"
        assert _plain(await _pages(h, limit, descending=True)) == expected[::-1], f"pages of {limit}, descending"


@clause("LIST-1", "LIST-4")
async def filters_are_anded(h: StoreHarness) -> None:
    """Each filter, and several at once, give what a plain search would; counts equal the listing."""
    everything = await _populate(h)
    times = sorted({run.created_at_ms for run in everything})
    middle, late = times[len(times) // 2], times[-2]
    plan: list[dict[str, Any]] = [
        {},
        {"statuses": [RunStatus.QUEUED, RunStatus.FINISHED]},
        {"statuses": []},
        {"statuses": [RunStatus.DEAD]},
        {"workflow_ids": ["w"]},
        {"workflow_ids": []},
        {"workflow_ids": ["W", "x"]},
        {"queues": ["q", "none"]},
        {"queues": []},
        {"created_from_ms": middle},
        {"created_before_ms": middle},
        {"created_from_ms": middle, "created_before_ms": late},
        {"run_id_prefix": "a"},
        {"run_id_prefix": ""},
        {"workflow_ids": ["w", "v"], "queues": ["q"], "statuses": list(RunStatus), "run_id_prefix": "a"},
        {"workflow_ids": ["w"], "created_from_ms": middle, "statuses": [RunStatus.RUNNING, RunStatus.PAUSED]},
    ]
    for filters in plan:
        expected = [run for run in everything if _matches(run, **filters)]
        assert _plain(await _pages(h, 2, **filters)) == expected, f"with {filters}"
        counts = Counter(run.status for run in expected)
        assert dict(await h.second.count_runs(**filters)) == dict(counts), f"counts with {filters}"


def _matches(  # the filters of the contract
    run: RunSummary,
    statuses: list[RunStatus] | None = None,
    workflow_ids: list[str] | None = None,
    queues: list[str] | None = None,
    run_id_prefix: str | None = None,
    created_from_ms: int | None = None,
    created_before_ms: int | None = None,
) -> bool:
    return (
        (statuses is None or run.status in statuses)
        and (workflow_ids is None or run.workflow_id in workflow_ids)
        and (queues is None or run.queue in queues)
        and (run_id_prefix is None or run.run_id.startswith(run_id_prefix))
        and (created_from_ms is None or run.created_at_ms >= created_from_ms)
        and (created_before_ms is None or run.created_at_ms < created_before_ms)
    )


@clause("LIST-3", "LIST-1")
async def prefixes_are_plain_text(h: StoreHarness) -> None:
    """`%`, `_`, `*`, quotes, case and characters at the end of the alphabet are plain text in a prefix."""
    everything = {run.run_id for run in await _populate(h)}
    for prefix in (
        "a",
        "A",
        "a%",
        "a_",
        "a*",
        "%",
        "_",
        "*",
        "[a]",
        "?",
        "a\\",
        "a'",
        '"',
        "é",
        "￿",
        "😀",
        "a￿",
        "a😀",
    ):
        expected = {run_id for run_id in everything if run_id.startswith(prefix)}
        found = {run.run_id for run in await _pages(h, 4, run_id_prefix=prefix)}
        assert found == expected, f"prefix {prefix!r} found {found}"
        counted = sum((await h.store.count_runs(run_id_prefix=prefix)).values())
        assert counted == len(expected), f"prefix {prefix!r}"


@clause("LIST-2", each=("ascending", "descending"))
async def pages_are_stable(h: StoreHarness, order: str) -> None:
    """A run that is there throughout appears once, whatever is created, changed or deleted between the pages."""
    lasting = [f"keep-{number:02}" for number in range(12)]
    for run_id in lasting:
        await create(h, run_id)
        await create(h, f"{run_id}-goes")
        h.advance(1 if run_id.endswith("5") else 0)
    seen: list[str] = []
    cursor: str | None = None
    for visit in range(30):
        page = await h.second.list_runs(limit=3, cursor=cursor, descending=order == "descending")
        seen += [run.run_id for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
        await _disturb(h, visit, page.runs[-1].run_id)
    assert sorted(run_id for run_id in seen if run_id in lasting) == lasting


async def _disturb(h: StoreHarness, visit: int, last_seen: str) -> None:
    """Create runs before and behind the cursor, delete some (also the one at the cursor), change others."""
    begin = h.now_ms
    await create(h, f"new-{visit}", now_ms=1)
    await create(h, f"late-{visit}")
    for run_id in (last_seen, f"keep-{visit:02}-goes", f"keep-{11 - visit:02}-goes"):
        if run_id.endswith("-goes"):
            await h.store.delete_run(run_id=run_id, now_ms=begin)
    if visit < 12:
        await claim(h, f"keep-{visit:02}")


@clause("LIST-2", "LIST-1")
async def filtered_pages_are_stable(h: StoreHarness) -> None:
    """With a filter, runs that match throughout appear once while others stop or begin to match."""
    for number in range(12):
        await create(h, f"run-{number:02}")
    seen: list[str] = []
    cursor: str | None = None
    leaving = iter(["run-00", "run-11", "run-05"])
    while True:
        page = await h.second.list_runs(limit=2, cursor=cursor, statuses=[RunStatus.QUEUED])
        seen += [run.run_id for run in page.runs]
        cursor = page.next_cursor
        if cursor is None:
            break
        for run_id in itertools.islice(leaving, 1):
            await claim(h, run_id)
    lasting = [f"run-{number:02}" for number in range(12) if number not in {0, 5, 11}]
    assert [run_id for run_id in seen if run_id in lasting] == lasting


_BASE64 = (base64.b64encode, base64.urlsafe_b64encode)
_PLAIN = (
    "x",
    "ü",
    "none",
    "null",
    "true",
    "{}",
    '["run", true, "x"]',
    "\0",
    "\ud800",
    " ",
    "../../etc/passwd",
    "9" * 4_000,
)
_NO_TIMES: tuple[Any, ...] = (True, False, None, -1, 0.5, 2**53, 10**40, "1", [1], {})
_NO_IDS: tuple[Any, ...] = (True, None, 1, "", "\0", "a\0b", "\ud800", "x" * 600, ["run-0"])
_FIELDS: tuple[Any, ...] = (
    *(["run", moment, "run-0"] for moment in _NO_TIMES),
    *(["run", 1, run_id] for run_id in _NO_IDS),
    *(["schedule", schedule_id] for schedule_id in _NO_IDS),
    *([], ["run"], ["schedule"], ["run", 1], ["run", 1, "a", "b"], {"run": 1}, None, True, 1, "run"),
)
_TEXTS = (
    *(json.dumps(fields) for fields in _FIELDS),
    "[" * 3_000,
    "[" * 1_500 + "]" * 1_500,
    "\0" * 9,
    "\xff\xfe",
    "9" * 3_000,
)
_NO_CURSORS: tuple[Any, ...] = (
    *("", *_PLAIN, "=", "====", "A", "\n", "bm9uZQ==", b"bm9uZQ==", True, 0, 1.5, ["x"], {}),
    *(encode(text.encode("utf-8")).decode("ascii") for text in _TEXTS for encode in _BASE64),
)
"""Texts that are no cursor: no text at all, no base64, and base64 of something else."""


@clause("LIST-3", "SCHEDULE-6")
async def foreign_cursors_are_refused(h: StoreHarness) -> None:
    """A cursor that is none, or belongs to another listing, is refused with the argument's name."""
    for number in range(3):
        await create(h, f"run-{number}")
    run_cursor = (await h.store.list_runs(limit=1)).next_cursor
    assert run_cursor is not None
    for cursor in (*_NO_CURSORS, run_cursor[:-2], encode_schedule_cursor("nightly")):
        with refused(InvalidArgumentError, f"the cursor {cursor!r}") as refusal:
            await h.store.list_runs(limit=1, cursor=cursor)
        assert refusal.error.argument == "cursor"
    for cursor in (*_NO_CURSORS, run_cursor) if await has_schedules(h) else ():
        with refused(InvalidArgumentError, f"the cursor {cursor!r} for schedules") as refusal:
            await h.store.list_schedules(limit=1, cursor=cursor)
        assert refusal.error.argument == "cursor"


@clause("LIST-1", "LIST-4", "ARG-2")
async def empty_listing(h: StoreHarness) -> None:
    """A store without runs lists and counts nothing, and so does a limit of 0."""
    page = await h.store.list_runs(limit=5)
    assert (page.runs, page.next_cursor) == ((), None)
    assert dict(await h.store.count_runs()) == {}
    await create(h)
    assert (await h.store.list_runs(limit=0)).runs == ()
    assert dict(await h.store.count_runs()) == {RunStatus.QUEUED: 1}


@clause("LIST-5")
async def timeline_tells_everything(h: StoreHarness) -> None:
    """A timeline holds creation, events, inbox entries (taken ones too) and pending timers, in order of time."""
    holder = await start(h)
    h.advance(10)
    await holder.signal("go", "s1", '"hi"')
    h.advance(10)
    await holder.append('"e"', taken_inbox=[1])
    h.advance(10)
    await h.second.cancel_run(run_id=holder.run_id, now_ms=h.now_ms)
    await holder.set_timer("t", fire_at_ms=h.now_ms + 100)
    timeline = await h.second.get_run_timeline(run_id=holder.run_id)
    assert timeline.run == await record(h, holder.run_id)
    assert [(e.source, e.what, e.detail) for e in timeline.entries] == [
        ("run", "created", '{"n":1}'),
        ("inbox", "signal go", '"hi"'),
        ("log", "note", '"e"'),
        ("inbox", "cancel cancel", '{"reason":null}'),
        ("timer", "fires", None),
    ]
    assert [e.at_ms - h.now_ms for e in timeline.entries] == [-30, -20, -10, 0, 100]
    assert not timeline.truncated


@clause("LIST-5")
async def timeline_is_bounded(h: StoreHarness) -> None:
    """At most `limit` events and `limit` inbox entries are shown, the first ones, and the answer says so."""
    holder = await start(h)
    await holder.append(*(str(n) for n in range(5)))
    for number in range(4):
        await holder.signal("go", f"s{number}", str(number))
    timeline = await h.second.get_run_timeline(run_id=holder.run_id, limit=3)
    for source in ("log", "inbox"):
        assert [e.detail for e in timeline.entries if e.source == source] == ["0", "1", "2"]
    assert timeline.truncated
    assert not (await h.second.get_run_timeline(run_id=holder.run_id, limit=5)).truncated
    with refused(RunNotFoundError, "the timeline of an unknown run"):
        await h.store.get_run_timeline(run_id="nobody")


@clause("ARG-4", "LIST-5")
async def timeline_has_a_thousand_events_unless_asked(h: StoreHarness) -> None:
    """Without `limit` a timeline has the first 1,000 events, and says that there are more."""
    holder = await start(h)
    await holder.append(*(str(number) for number in range(1_001)))
    timeline = await h.second.get_run_timeline(run_id=holder.run_id)
    assert [e.detail for e in timeline.entries if e.source == "log"] == [str(number) for number in range(1_000)]
    assert timeline.truncated


def _awaited(h: StoreHarness, size: int) -> list[Awaited]:
    """Return things to wait for with names of their own, as long as `size` says."""
    return [
        Awaited(kind="approval", name='é"\\', step_id="ask", until_ms=h.now_ms + 10**9),
        *(Awaited(kind="signal", name=f"s{number}", step_id=f"w{number}" + "x" * size) for number in range(4)),
    ]


@clause("LIST-6")
async def listing_says_what_a_paused_run_waits_for(h: StoreHarness) -> None:
    """The first few things, short or long, and how many there are; of no other run, and not of a former pause."""
    expected: dict[str, Any] = {}
    awaited = _awaited(h, 300)
    for size, count in itertools.product((0, 300), range(6)):
        some = _awaited(h, size)[:count]
        holder = await start(h, f"paused-{size}-{count}")
        await holder.pause(timers={"t": h.now_ms + 99}, awaited=some)
        expected[holder.run_id] = (tuple(some[:AWAITED_SHOWN]), count)
    for run_id in ("woken", "ended"):
        holder = await start(h, run_id)
        await holder.pause(awaited=awaited[1:2])
        await holder.signal("s0")
        if run_id == "ended":
            await (await claim(h, run_id)).finish(taken_inbox=[1])
    for page in (
        await h.second.list_runs(limit=MANY),
        await h.second.list_runs(limit=MANY, descending=True),
        await h.second.list_runs(limit=MANY, descending=True, statuses=list(RunStatus)),
        await h.second.list_runs(limit=MANY, workflow_ids=["orders"]),
        await h.second.list_runs(limit=MANY, workflow_ids=["orders"], descending=True),
        await h.second.list_runs(limit=MANY, workflow_ids=["orders", "others"], queues=["default"]),
    ):
        found = {run.run_id: (run.first_awaited, run.awaited_count) for run in page.runs}
        assert found == expected | {"woken": ((), 0), "ended": ((), 0)}
    for descending in (False, True):
        page = await h.second.list_runs(limit=MANY, run_id_prefix="paused-", descending=descending)
        assert {run.run_id: (run.first_awaited, run.awaited_count) for run in page.runs} == expected
    run = await record(h, "paused-300-5")
    assert (run.first_awaited, run.awaited_count) == (tuple(awaited[:AWAITED_SHOWN]), 5)
    assert run.awaited == tuple(awaited)
