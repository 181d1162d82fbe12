"""BULK: many runs are created, and many signals delivered, by one call, each as if it were alone."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, PayloadTooLargeError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    MAX_BULK_BYTES,
    MAX_BULK_RUNS,
    STATES,
    Buffered,
    CreateManyResult,
    Delivered,
    DeliverSignalResult,
    Duplicate,
    Existing,
    ExistingOfMany,
    RunToCreate,
    SignalToDeliver,
    WorkflowExecutionStore,
)

from ..cases import clause
from ..expectations import refused
from ..harness import StoreHarness
from ..holder import LeaseHolder
from ..samples import MANY
from ..scenarios import claim, claim_pending, create, observe, record, run_to_create, start, start_waiting, unchanged
from ..settings import SEED, scaled
from ..tasks import all_of
from .status_table import in_state

_WEEK_MS = 7 * 86_400_000


def _signal(run_id: str, signal_id: str, name: str = "go", payload: str | None = "1") -> SignalToDeliver:
    text = None if payload is None else JsonText(payload)
    return SignalToDeliver(run_id=run_id, signal_id=signal_id, name=name, payload=text)


async def _create(
    h: StoreHarness, *runs: RunToCreate, store: WorkflowExecutionStore | None = None
) -> tuple[CreateManyResult, ...]:
    return await (store or h.store).create_runs(runs=runs, now_ms=h.now_ms)


async def _create_alone(h: StoreHarness, run: RunToCreate) -> CreateManyResult | str:
    facts = {name: getattr(run, name) for name in RunToCreate.__dataclass_fields__}
    answer = await h.store.create_run(**facts, now_ms=h.now_ms)
    return ExistingOfMany(run_id=run.run_id, differs=answer.differs) if isinstance(answer, Existing) else answer.kind


async def _deliver(
    h: StoreHarness, *signals: SignalToDeliver, store: WorkflowExecutionStore | None = None
) -> tuple[DeliverSignalResult, ...]:
    return await (store or h.store).deliver_signals(signals=signals, now_ms=h.now_ms)


def _seqs(answers: Sequence[DeliverSignalResult]) -> list[tuple[str, int | None]]:
    return [(answer.kind, getattr(answer, "inbox_seq", None)) for answer in answers]


async def _looks(h: StoreHarness, run_id: str) -> str:
    """Return all that a store shows of a run, except its id."""
    return str(await observe(h, run_id)).replace(run_id, "THE-RUN")


# Runs.


@clause("BULK-4", "RUN-1", "RUN-3")
async def runs_are_created_as_one_by_one(h: StoreHarness) -> None:
    """Two equal rows of runs, new ones and ids that are taken in each status: both then look the same."""

    def wanted(row: str) -> list[RunToCreate]:
        taken = {"workflow_id": "queued", "workflow_version": "1"}
        return [
            run_to_create(h, f"{row}-plain"),
            *(run_to_create(h, f"{row}-{state}", **taken) for state in STATES),
            run_to_create(h, f"{row}-later", available_at_ms=h.now_ms + _WEEK_MS, queue="slow", priority=-3),
            run_to_create(
                h, f"{row}-earlier", available_at_ms=0, input='{"a": [1.0, "\\u0000"]}', workflow_version="2"
            ),
            run_to_create(h, f"{row}-same", input='{"b":1,"a":[]}'),
            run_to_create(h, f"{row}-number", input="1.0"),
        ]

    for row in ("alone", "among"):
        for state in STATES:
            await in_state(h, state, f"{row}-{state}")
        await create(h, f"{row}-same", input='{"a":[],"b":1}')
        await create(h, f"{row}-number", input="1")
    h.advance(10)
    one_by_one = [await _create_alone(h, run) for run in wanted("alone")]
    runs = wanted("among")
    answers = await _create(h, *runs, store=h.second)
    assert isinstance(answers, tuple)
    for run, answer, alone in zip(runs, answers, one_by_one, strict=True):
        if isinstance(alone, ExistingOfMany):
            assert isinstance(answer, ExistingOfMany), f"{run.run_id} is {answer.kind}"
            assert (answer.run_id, answer.differs) == (run.run_id, alone.differs)
        else:
            assert answer.kind == alone == "created"
        assert await _looks(h, run.run_id) == await _looks(h, run.run_id.replace("among", "alone"))


@clause("BULK-4", "RUN-3")
async def answers_of_creations_are_in_order(h: StoreHarness) -> None:
    """Whatever the order of the ids, and whichever of them are taken."""
    ids = ["m", "c", "z", "a", "é", "B", "y", "b"]
    for run_id in ("c", "é", "y"):
        await create(h, run_id, input='"another"' if run_id == "c" else '{"n":1}')
    answers = await _create(h, *(run_to_create(h, run_id) for run_id in ids))
    kinds = {"c": ("existing", ("input",)), "é": ("existing", ()), "y": ("existing", ())}
    assert [(answer.kind, getattr(answer, "differs", None)) for answer in answers] == [
        kinds.get(run_id, ("created", None)) for run_id in ids
    ]


@clause("BULK-4", "RUN-3", "RUN-5")
async def id_that_stands_twice_is_created_once(h: StoreHarness) -> None:
    """The first of two runs of one id is created, the second one finds it there; one operation is one creation."""
    first, other = run_to_create(h, "twice", input='"first"'), run_to_create(h, "other")
    second = run_to_create(h, "twice", input='"second"', workflow_id="another", priority=9)
    third = run_to_create(h, "twice", input='"first"')
    answers = await _create(h, first, other, second, first, third)
    assert [answer.kind for answer in answers] == ["created", "created", "existing", "created", "existing"]
    assert [answer.differs for answer in answers if isinstance(answer, ExistingOfMany)] == [
        ("workflow_id", "input"),
        (),
    ]
    run = await record(h, "twice")
    assert (run.input, run.workflow_id, run.priority) == ('"first"', first.workflow_id, 0)
    taken = await _create(h, second, third)
    assert [answer.differs for answer in taken if isinstance(answer, ExistingOfMany)] == [("workflow_id", "input"), ()]


@clause("BULK-4", "RUN-5", "OP-2")
async def repeated_creations_are_created_again(h: StoreHarness) -> None:
    """After a lost answer each is `created` as before, with new ones beside; once a driver has written, it exists."""
    runs = [run_to_create(h, f"run-{number}") for number in range(4)]
    await _create(h, *runs)
    await h.store.deliver_signal(run_id="run-2", signal_id="s", name="go", payload=None, now_ms=h.now_ms)
    await (await claim(h, "run-1")).append("1")
    ids = [run.run_id for run in runs]
    h.advance(5)
    async with unchanged(h, *ids, after="a repeated create_runs"):
        answers = await _create(h, *runs[::-1], run_to_create(h, "new"), store=h.second)
        assert [answer.kind for answer in answers] == ["created", "created", "existing", "created", "created"]
    assert (await record(h, "new")).created_at_ms == h.now_ms


@clause("BULK-4", "CLAIM-5", "CLAIM-9")
async def created_runs_are_claimed_in_their_order(h: StoreHarness) -> None:
    """They wait by priority and due time like others, each in its queue, and their leases are first ones."""
    await create(h, "alone", priority=1)
    runs = [
        run_to_create(h, "late", available_at_ms=h.now_ms + 5),
        run_to_create(h, "first", priority=2),
        run_to_create(h, "elsewhere", queue="slow"),
        run_to_create(h, "last", available_at_ms=h.now_ms + 9),
        run_to_create(h, "next", available_at_ms=h.now_ms - 1),
    ]
    await _create(h, *runs)
    batch = await claim_pending(h, queues=["default"], now_ms=h.now_ms + 5, store=h.second)
    assert [taken.run.run_id for taken in batch.claims] == ["first", "alone", "next", "late"]
    assert batch.next_due_ms == h.now_ms + 9
    assert {taken.lease.number for taken in batch.claims} == {1}
    await LeaseHolder.of(h, batch.claims[0]).append("1")


@clause("BULK-4")
async def without_runs_nothing_is_created(h: StoreHarness) -> None:
    """No run, no answer; and a creation touches no other run."""
    bystander = await start(h)
    async with unchanged(h, bystander.run_id, after="create_runs"):
        assert await _create(h) == ()
        assert len(await _create(h, run_to_create(h, "new"))) == 1
    assert len((await h.second.list_runs(limit=MANY)).runs) == 2


@clause("BULK-4", needs=("corrupt",))
async def damaged_run_keeps_no_other_back(h: StoreHarness) -> None:
    """A run that cannot be read is there, and not as it was asked for; the others are created."""
    await create(h, "bad")
    await h.corrupt("bad")
    answers = await _create(h, run_to_create(h, "a"), run_to_create(h, "bad"), run_to_create(h, "c"))
    assert [answer.kind for answer in answers] == ["created", "existing", "created"]
    (existing,) = [answer for answer in answers if isinstance(answer, ExistingOfMany)]
    assert "input" in existing.differs


@clause("BULK-2", "BULK-4", "RUN-4")
async def creations_that_meet_create_each_run_once(h: StoreHarness) -> None:
    """Calls with the same ids, each in its own order, beside single ones: each run is created once, as one asked."""
    chosen, handles = random.Random(SEED), await h.handles(4)
    for round_number in range(scaled(10)):
        ids = [f"run-{round_number}-{number}" for number in range(20)]
        calls: list[list[RunToCreate]] = []
        for caller in range(len(handles)):
            chosen.shuffle(ids)
            calls.append([run_to_create(h, run_id, input=f'"{caller}"') for run_id in ids])
        singles = [run_to_create(h, run_id, input='"single"') for run_id in ids[::5]]
        answers: list[Any] = await all_of(
            *(_create(h, *runs, store=handle) for runs, handle in zip(calls, handles, strict=True)),
            *(_create_alone(h, run) for run in singles),
        )
        pairs = [pair for runs, told in zip(calls, answers, strict=False) for pair in zip(runs, told, strict=True)]
        pairs += zip(singles, answers[len(calls) :], strict=True)
        for run_id in ids:
            told = [(run.input, answer) for run, answer in pairs if run.run_id == run_id]
            winners = [given for given, answer in told if not isinstance(answer, ExistingOfMany)]
            assert len(winners) == 1, f"{run_id} was created {len(winners)} times"
            assert (await record(h, run_id)).input == winners[0]
            differs = [answer.differs for given, answer in told if given != winners[0]]
            assert differs == [("input",)] * len(differs)


@clause("BULK-2", "BULK-4", "RETAIN-1")
async def creations_meet_deletions(h: StoreHarness) -> None:
    """Calls that create runs beside calls that delete them: each run is there as a whole, or not at all."""
    ids = [f"run-{number}" for number in range(12)]

    async def delete() -> None:
        for _ in range(scaled(4)):
            for run_id in ids:
                await h.second.delete_run(run_id=run_id, now_ms=h.now_ms, force=True)

    async def creating(order: Sequence[str]) -> None:
        for _ in range(scaled(8)):
            answers = await _create(h, *(run_to_create(h, run_id) for run_id in order))
            assert {answer.kind for answer in answers} <= {"created", "existing"}

    await all_of(creating(ids), creating(ids[::-1]), delete())
    answers = await _create(h, *(run_to_create(h, run_id) for run_id in ids))
    assert len(answers) == len(ids)
    for run_id in ids:
        assert (await record(h, run_id)).input == '{"n":1}'
    assert len((await claim_pending(h)).claims) == len(ids)


@clause("BULK-3")
async def too_many_and_bad_runs_are_refused(h: StoreHarness) -> None:
    """Nothing is written when one run among them is bad, or there are too many or too large ones."""
    good = run_to_create(h, "good")
    too_large = JsonText('"' + "x" * h.store.capabilities.max_payload_bytes + '"')
    half = JsonText('"' + "x" * (MAX_BULK_BYTES // 4) + '"')
    bad: list[tuple[str, list[Any]]] = [
        ("runs", [good] * (MAX_BULK_RUNS + 1)),
        ("runs", [good, "run"]),
        ("runs", [good, _signal("run", "s")]),
        ("runs", [good, run_to_create(h, "a", input=half), run_to_create(h, "b", input=half)]),
        ("runs.priority", [good, run_to_create(h, "a", priority=40_000)]),
        ("runs.priority", [good, run_to_create(h, "a", priority=True)]),
        ("runs.available_at_ms", [good, run_to_create(h, "a", available_at_ms=-1)]),
        ("runs.input", [good, run_to_create(h, "a", input="{")]),
    ]
    for argument, runs in bad:
        with refused(InvalidArgumentError, f"create_runs with bad {argument}") as refusal:
            await h.store.create_runs(runs=runs, now_ms=h.now_ms)
        assert refusal.error.argument == argument
    with refused(PayloadTooLargeError, "create_runs with an input that is too large"):
        await _create(h, run_to_create(h, "a", input=too_large))
    for field in ("run_id", "workflow_id", "workflow_version", "operation_id", "queue"):
        for text in ("", "a" * 513, "nul\0", 7):
            with refused(InvalidArgumentError, f"a run with the {field} {text!r:.20}") as refusal:
                facts: dict[str, Any] = {"run_id": "a"} | {field: text}
                run_to_create(h, **facts)
            assert refusal.error.argument == f"runs.{field}"
    assert (await h.store.list_runs(limit=1)).runs == ()


@clause("BULK-3", "BULK-4")
async def most_that_is_allowed_is_created(h: StoreHarness) -> None:
    """The greatest number of runs, and the most bytes, of texts that take the most room on their way."""
    many = [run_to_create(h, f"run-{number}") for number in range(MAX_BULK_RUNS)]
    assert {answer.kind for answer in await _create(h, *many)} == {"created"}
    ids = {"workflow_id": "\x01" * 512, "queue": "\x02" * 512, "operation_id": "\U0001f600" * 128}
    large: list[RunToCreate] = []
    while True:
        text = JsonText('"' + "\\\\" * 10_000 + '"')
        run = run_to_create(h, f"{len(large):03}" + "\x01" * 509, workflow_version='"' * 512, input=text, **ids)
        if sum(item.bulk_bytes for item in (*large, run)) > MAX_BULK_BYTES:
            break
        large.append(run)
    assert len(large) > 20
    assert {answer.kind for answer in await _create(h, *large)} == {"created"}
    for run in (large[0], large[-1]):
        stored = await record(h, run.run_id)
        assert (stored.input, stored.workflow_version, stored.queue) == (run.input, run.workflow_version, run.queue)


# Signals.


@clause("BULK-5", "SIGNAL-1", "SIGNAL-2", "SIGNAL-3")
async def signals_are_delivered_as_one_by_one(h: StoreHarness) -> None:
    """Two equal rows of runs in each status get the same signals, one by one and together: both then look the same."""
    names = ("other", "go", "go", "other")

    def wanted(row: str, ids: str) -> list[SignalToDeliver]:
        return [
            *(_signal(f"{row}-{state}", f"{ids}{place}", name) for place, name in enumerate(names) for state in STATES),
            _signal(f"{row}-nobody", "s0"),
            _signal(f"{row}-paused", f"{ids}1", "other"),
            _signal(f"{row}-queued", f"{ids}9", payload=None),
            _signal(f"{row}-queued", f"{ids}8", payload="null"),
        ]

    for row in ("alone", "among"):
        for state in STATES:
            await in_state(h, state, f"{row}-{state}")
    for ids in ("s", "t", "s"):
        h.advance(10)
        one_by_one = [
            await h.store.deliver_signal(
                run_id=signal.run_id, signal_id=signal.signal_id, name=signal.name, payload=signal.payload,
                now_ms=h.now_ms,
            )
            for signal in wanted("alone", ids)
        ]  # fmt: skip
        answers = await _deliver(h, *wanted("among", ids), store=h.second)
        assert isinstance(answers, tuple)
        assert list(answers) == one_by_one
        for state in STATES:
            looks = [await _looks(h, f"{row}-{state}") for row in ("among", "alone")]
            assert looks[0] == looks[1], f"signals to a run that was {state}"


@clause("BULK-5", "SIGNAL-1", "SIGNAL-4")
async def signals_for_one_run_keep_their_order(h: StoreHarness) -> None:
    """Of signals for two runs, mixed, each run gets its own in order; the first that it waits for is delivered."""
    waiting = await start_waiting(h, run_id="waiting", signals=["go", "stop"], timers={"t": h.now_ms + _WEEK_MS})
    await start(h, "running")
    await _deliver(h, _signal("waiting", "s0", "early"))
    h.advance(3)
    answers = await _deliver(
        h,
        _signal("waiting", "s1", "other", '"1"'),
        _signal("running", "s1", "go"),
        _signal("waiting", "s3", "stop", '"3"'),
        _signal("running", "s0", "go"),
        _signal("waiting", "s2", "go", '"2"'),
    )
    kinds = [("buffered", 2), ("buffered", 1), ("delivered", 3), ("buffered", 2), ("buffered", 4)]
    assert _seqs(answers) == kinds
    run = await record(h, "waiting")
    assert (run.status, run.due_at_ms, run.inbox_seq, run.awaited) == ("queued", h.now_ms, 4, ())
    inbox = (await claim(h, waiting.run_id)).claim.inbox
    shown = [(entry.inbox_seq, entry.delivery_id, entry.name, entry.payload, entry.kind) for entry in inbox]
    assert shown == [
        (1, "s0", "early", "1", "signal"),
        (2, "s1", "other", '"1"', "signal"),
        (3, "s3", "stop", '"3"', "signal"),
        (4, "s2", "go", '"2"', "signal"),
    ]
    assert [entry.received_at_ms for entry in inbox][1:] == [h.now_ms] * 3


@clause("BULK-5", "SIGNAL-2")
async def signal_that_stands_twice_acts_once(h: StoreHarness) -> None:
    """The second of two signals of one id for one run is a duplicate, also of a known one, or is refused alike."""
    await start_waiting(h, run_id="waiting")
    await (await start(h, "ended")).finish()
    await start(h, "other")
    await _deliver(h, _signal("waiting", "known", "early"))
    answers = await _deliver(
        h,
        _signal("waiting", "twice"),
        _signal("other", "twice"),
        _signal("waiting", "known"),
        _signal("waiting", "twice", "another"),
        _signal("ended", "twice"),
        _signal("ended", "twice"),
        _signal("nobody", "twice"),
        _signal("nobody", "twice"),
        _signal("waiting", "twice"),
        _signal("waiting", "next"),
    )
    assert _seqs(answers) == [
        ("delivered", 2), ("buffered", 1), ("duplicate", 1), ("duplicate", 2), ("finished", None), ("finished", None),
        ("not-found", None), ("not-found", None), ("duplicate", 2), ("buffered", 3),
    ]  # fmt: skip
    inbox = await h.second.read_inbox(run_id="waiting", limit=MANY)
    assert [entry.delivery_id for entry in inbox] == ["known", "twice", "next"]


@clause("BULK-5", "SIGNAL-1")
async def without_signals_nothing_is_delivered(h: StoreHarness) -> None:
    """No signal, no answer; other runs that wait for the same stay as they are."""
    bystander, waiting = await start_waiting(h), await start_waiting(h)
    await start_waiting(h, run_id="elsewhere", signals=["stop"])
    async with unchanged(h, bystander.run_id, after="deliver_signals"):
        assert await _deliver(h) == ()
        assert _seqs(await _deliver(h, _signal(waiting.run_id, "s"), _signal("elsewhere", "s"))) == [
            ("delivered", 1),
            ("buffered", 1),
        ]
    assert (await record(h, "elsewhere")).status == "paused", "woken by what another run waits for"


@clause("BULK-5", "APPROVAL-2", "PAUSE-5")
async def many_signals_wake_for_signals_only(h: StoreHarness) -> None:
    """An approval of the same name is something else, and so is its id."""
    await start_waiting(h, run_id="approval", signals=(), approvals=["go"])
    await h.store.deliver_approval(run_id="approval", approval_id="known", approved=True, now_ms=h.now_ms)
    answers = await _deliver(h, _signal("approval", "go"), _signal("approval", "known"))
    assert _seqs(answers) == [("buffered", 2), ("buffered", 3)]
    inbox = await h.second.read_inbox(run_id="approval", limit=MANY)
    assert [(entry.kind, entry.delivery_id) for entry in inbox][1:] == [("signal", "go"), ("signal", "known")]
    assert (await record(h, "approval")).status == "paused"


@clause("BULK-5", "SIGNAL-1")
async def old_signals_wake_nobody_among_many(h: StoreHarness) -> None:
    """A run that has had a signal waits for another one of that name: only a new one wakes it."""
    holder = await start(h, "again")
    await holder.signal("go", "old")
    await holder.pause(signals=["go"], taken_inbox=[1], seen_inbox_seq=1)
    await start_waiting(h, run_id="beside", signals=["stop"])
    answers = await _deliver(h, _signal("again", "new", "other"), _signal("beside", "new"), _signal("again", "old"))
    assert _seqs(answers) == [("buffered", 2), ("buffered", 1), ("duplicate", 1)]
    assert [(await record(h, run_id)).status for run_id in ("again", "beside")] == ["paused", "paused"]
    assert _seqs(await _deliver(h, _signal("again", "newest"))) == [("delivered", 3)]
    assert (await record(h, "again")).status == "queued"


@clause("BULK-2", "BULK-5", "SIGNAL-4", "SIGNAL-2")
async def deliveries_that_meet_number_without_gaps(h: StoreHarness) -> None:
    """Calls for the same runs, in their own orders, beside single deliveries and drivers: each signal is there once."""
    chosen, handles = random.Random(SEED), await h.handles(3)
    for _ in range(scaled(6)):
        holders = [await start(h) if number % 2 else await start_waiting(h) for number in range(8)]
        ids = [holder.run_id for holder in holders]
        calls = []
        for caller in range(len(handles)):
            chosen.shuffle(ids)
            calls.append(
                [_signal(run_id, f"{caller}-{place}") for place in range(3) for run_id in ids]
                + [_signal(run_id, "shared") for run_id in ids]
            )
        results: list[Any] = await all_of(
            *(_deliver(h, *signals, store=handle) for signals, handle in zip(calls, handles, strict=True)),
            *(holder.signal("go", "shared") for holder in holders),
            *(_append(holder) for holder in holders),
        )
        answers = [
            pair for signals, told in zip(calls, results, strict=False) for pair in zip(signals, told, strict=True)
        ]
        for place, holder in enumerate(holders):
            alone = results[len(calls) + place]
            await _check_inbox(h, holder, [*answers, (_signal(holder.run_id, "shared"), alone)])


async def _append(holder: LeaseHolder) -> None:
    try:
        await holder.append("2", "3")
    except LeaseLostError:
        return


async def _check_inbox(
    h: StoreHarness, holder: LeaseHolder, told: Sequence[tuple[SignalToDeliver, DeliverSignalResult]]
) -> None:
    """Check that the inbox of a run holds what the answers say."""
    inbox = await h.second.read_inbox(run_id=holder.run_id, limit=MANY)
    numbers = {entry.delivery_id: entry.inbox_seq for entry in inbox}
    assert list(numbers.values()) == list(range(1, len(inbox) + 1)), "the inbox has gaps"
    assert (await record(h, holder.run_id)).inbox_seq == len(inbox)
    own = [(signal, answer) for signal, answer in told if signal.run_id == holder.run_id]
    for signal, answer in own:
        assert isinstance(answer, Delivered | Buffered | Duplicate), f"{signal.signal_id} was {answer.kind}"
        assert numbers[signal.signal_id] == answer.inbox_seq
    news = [signal.signal_id for signal, answer in own if not isinstance(answer, Duplicate)]
    assert sorted(news) == sorted(numbers), "a signal was new twice, or never"
    for caller in range(3):
        sent = [numbers[f"{caller}-{place}"] for place in range(3)]
        assert sent == sorted(sent), "signals of one call came in another order"
    delivered = [answer for _, answer in own if isinstance(answer, Delivered)]
    assert len(delivered) == (0 if (await record(h, holder.run_id)).status == "running" else 1)


@clause("BULK-3")
async def too_many_and_bad_signals_are_refused(h: StoreHarness) -> None:
    """Nothing is written when one signal among them is bad, or there are too many or too large ones."""
    holder = await start_waiting(h, run_id="run")
    good = _signal("run", "good")
    too_large = JsonText('"' + "x" * h.store.capabilities.max_payload_bytes + '"')
    half = '"' + "x" * (MAX_BULK_BYTES // 4) + '"'
    bad: list[tuple[str, list[Any]]] = [
        ("signals", [good] * (MAX_BULK_RUNS + 1)),
        ("signals", [good, "run"]),
        ("signals", [good, run_to_create(h, "run")]),
        ("signals", [good, _signal("run", "a", payload=half), _signal("run", "b", payload=half)]),
        ("signals.payload", [good, _signal("run", "a", payload="{")]),
    ]
    async with unchanged(h, holder.run_id, after="a refused deliver_signals"):
        for argument, signals in bad:
            with refused(InvalidArgumentError, f"deliver_signals with bad {argument}") as refusal:
                await h.store.deliver_signals(signals=signals, now_ms=h.now_ms)
            assert refusal.error.argument == argument
        with refused(PayloadTooLargeError, "deliver_signals with a payload that is too large"):
            await _deliver(h, _signal("run", "a", payload=too_large))
    for field in ("run_id", "signal_id", "name"):
        for text in ("", "a" * 513, "nul\0", 7):
            with refused(InvalidArgumentError, f"a signal with the {field} {text!r:.20}") as refusal:
                facts: dict[str, Any] = {"run_id": "a", "signal_id": "s", "name": "go"} | {field: text}
                SignalToDeliver(**facts)
            assert refusal.error.argument == f"signals.{field}"


@clause("BULK-3", "BULK-5")
async def most_that_is_allowed_is_delivered(h: StoreHarness) -> None:
    """The greatest number of signals for one run, and the most bytes of texts that take the most room on their way."""
    holder = await start(h)
    many = [_signal(holder.run_id, f"s{number}") for number in range(MAX_BULK_RUNS)]
    assert _seqs(await _deliver(h, *many)) == [("buffered", number) for number in range(1, MAX_BULK_RUNS + 1)]
    large: list[SignalToDeliver] = []
    while True:
        text = '"' + "\\\\" * 10_000 + '"'
        signal = _signal(holder.run_id, f"{len(large):03}" + "\x01" * 509, name="\x02" * 512, payload=text)
        if sum(item.bulk_bytes for item in (*large, signal)) > MAX_BULK_BYTES:
            break
        large.append(signal)
    assert len(large) > 20
    assert {answer.kind for answer in await _deliver(h, *large)} == {"buffered"}
    (entry,) = await h.second.read_inbox(run_id=holder.run_id, limit=1, after_seq=MAX_BULK_RUNS + len(large) - 1)
    assert (entry.delivery_id, entry.name, entry.payload) == (large[-1].signal_id, large[-1].name, large[-1].payload)
