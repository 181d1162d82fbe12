"""Random sequences: what is drawn reaches every answer, what differs is found, made short, and can be run again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from memory_mutants import Faulty
from mutant_catalogue import memory_harness
from workflow_contract_tests import certify
from workflow_contract_tests.catalogue import catalogue
from workflow_contract_tests.model import Model, Unsettled
from workflow_contract_tests.state_machine import Player, Search, show
from workflow_contract_tests.state_machine.drawing import Part
from workflow_contract_tests.state_machine.drawing import Sequence as Drawn
from workflow_contract_tests.state_machine.freedoms import Raised, normal
from workflow_contract_tests.state_machine.playing import Match
from workflow_contract_tests.state_machine.printing import clauses_of
from workflow_contract_tests.state_machine.script import NO_TOKEN, Operation, Token, Tokens
from workflow_runtime.errors import InvalidArgumentError, LeaseLostError
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import (
    Appended,
    BucketClaims,
    ClaimBatch,
    Execution,
    Lease,
    RunStatus,
    Timer,
    WorkflowExecutionStore,
    results,
)
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

START_MS = 1_750_000_000_000


def freshly(store: type[InMemoryWorkflowStore]) -> Any:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Sequence[Player]]:
        data = InMemoryData()
        yield [Player("memory", [store(data=data), store(data=data)])]

    return opened


def search(store: type[InMemoryWorkflowStore], part: Part = "runs", operations: int = 5_000) -> str:
    """What a search says of a store; nothing when it finds nothing."""
    try:
        asyncio.run(Search(part=part, freshly=freshly(store), seed=1, operations=operations).run())
    except AssertionError as error:
        return str(error)
    return ""


class DoubleAppend(Faulty):
    """Two events are one too many."""

    async def append_events(self, **arguments: Any) -> Any:
        events = arguments["events"]
        return await super().append_events(**(arguments | {"events": [*events, *events[1:]]}))


class LazyHeartbeat(Faulty):
    """A heartbeat makes a lease shorter."""

    async def heartbeat_run_lease(self, **arguments: Any) -> Any:
        answer = await super().heartbeat_run_lease(**arguments)
        lease = self.current(arguments["run_id"]).lease
        assert lease is not None
        self.current(arguments["run_id"]).lease = replace(
            lease, expires_at_ms=arguments["now_ms"] + arguments["lease_ms"]
        )
        return answer


class BadMood(Faulty):
    """What is no error of the contract's comes out."""

    async def release_run_lease(self, **arguments: Any) -> Any:
        raise ZeroDivisionError


def test_store_that_keeps_the_contract_passes() -> None:
    assert search(InMemoryWorkflowStore) == ""
    assert search(InMemoryWorkflowStore, "schedules") == ""


@pytest.mark.parametrize("store", [DoubleAppend, LazyHeartbeat, BadMood])
def test_faults_are_found(store: type[InMemoryWorkflowStore]) -> None:
    assert "answers otherwise than the contract says (seed " in search(store)


def test_report_names_both_answers_and_the_clauses() -> None:
    report = search(DoubleAppend)
    assert "the model answered: " in report
    assert "memory answered: " in report
    assert "  LOG-1: The events get the indexes" in report


def test_failing_script_is_short_and_runs_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    program = search(DoubleAppend).split("A program that shows it:\n")[1]
    calls = [line for line in program.splitlines() if line.strip().startswith("await call.")]
    assert len(calls) <= 5, "a run, its claim and the append are enough"
    assert calls[-1].strip().startswith("await call.append_events(")
    body = program.split("\n\n\nasyncio.run")[0].replace("harness = ...", "harness = None")
    names: dict[str, Any] = {}
    exec(body, names)  # it is the program that a person would run
    asyncio.run(show(names["script"], memory_harness(DoubleAppend)))
    shown = capsys.readouterr().out
    assert "create_run: Created(" in shown
    assert "append_events: Appended(" in shown


def test_case_fails_with_the_report() -> None:
    [case] = [case for case in catalogue() if case.name == "sequences_about_runs_answer_as_the_model"]
    [failed] = certify(lambda: memory_harness(DoubleAppend), [case]).of("failed")
    assert "A program that shows it" in (failed.problem or "")


def drawn(seed: int, part: Part) -> tuple[list[Operation], list[Any]]:
    """The operations of a sequence, played on the model alone, and its answers."""
    match = Match()
    sequence = Drawn(seed, part, match.model, START_MS)
    answers: list[Any] = []
    call = match.model.call

    def remember(verb: str, arguments: dict[str, Any]) -> Any:
        try:
            answers.append(call(verb, arguments))
        except Unsettled:
            raise
        except Exception as error:
            answers.append(error)
            raise
        return answers[-1]

    match.model.call = remember  # type: ignore[method-assign]

    async def play() -> None:
        for _ in range(60):
            await match.play(sequence.draw())

    asyncio.run(play())
    return match.played, answers


def test_one_seed_is_one_sequence() -> None:
    assert drawn(7, "schedules")[0] == drawn(7, "schedules")[0]
    assert drawn(7, "runs")[0] != drawn(8, "runs")[0]


def test_every_verb_and_every_answer_is_reached() -> None:
    """A sequence that never got so far would prove nothing about it."""
    parts: tuple[Part, ...] = ("runs", "schedules")
    played = [drawn(seed, part) for part in parts for seed in range(60)]
    verbs = {operation.verb for operations, _ in played for operation in operations}
    many = [one for _, answers in played for answer in answers if isinstance(answer, tuple) for one in answer]
    kinds = {type(answer) for _, answers in played for answer in answers} | set(map(type, many))
    statuses = {answer.status for _, answers in played for answer in answers if hasattr(answer, "status")}

    wanted = {name for role in WorkflowExecutionStore.__mro__ for name in vars(role) if not name.startswith("_")}
    assert wanted - verbs <= {"load_execution", "ensure_schema", "check_schema", "read_clock", "capabilities"}
    answers = {getattr(results, name) for name in results.__all__ if isinstance(getattr(results, name), type)}
    assert answers - kinds == {results.LeaseBusy}, "which nobody is who calls alone"
    assert set(RunStatus) <= statuses
    assert {LeaseLostError, InvalidArgumentError} <= kinds


def test_repeats_stale_tokens_and_bad_clocks_are_drawn() -> None:
    operations = [operation for seed in range(30) for operation in drawn(seed, "runs")[0]]
    tokens = [operation.arguments.get("lease_token") for operation in operations]
    times = [operation.arguments.get("now_ms", 0) for operation in operations]
    assert any(operation.again for operation in operations)
    assert any(isinstance(token, Token) and token.back for token in tokens)
    assert any(isinstance(one, int) and isinstance(two, int) and one > two > 0 for one, two in pairwise(times))


def test_tokens_are_told_apart_by_their_claims() -> None:
    tokens = Tokens()
    assert [tokens.learn("run", "r", token) for token in ("a", "b", "a")] == [0, 1, 0]
    assert (tokens.find("run", "r", 0), tokens.find("run", "r", 1), tokens.find("run", "r", 2)) == ("b", "a", NO_TOKEN)


def form(answer: Any, *, now_ms: int = 10, again: bool = False) -> Any:
    return normal(answer, Tokens(), now_ms=now_ms, again=again)


def test_what_is_free_does_not_differ() -> None:
    early, late = (ClaimBatch(claims=(), next_due_ms=due) for due in (3, 10))
    assert form(early) == form(late) != form(ClaimBatch(claims=(), next_due_ms=11))
    dead, turned = (ClaimBatch(claims=(), next_due_ms=None, dead=ids) for ids in (("a", "b"), ("b", "a")))
    assert form(dead) == form(turned)
    first, now = (
        Appended(next_index=1, lease_expires_at_ms=end, inbox_seq=0, cancel_requested=False) for end in (5, 9)
    )
    assert form(first, again=True) == form(now, again=True)
    assert form(first) != form(now)
    assert form(Raised(InvalidArgumentError("limit", "one"))) == form(Raised(InvalidArgumentError("limit", "two")))
    assert form(Raised(InvalidArgumentError("limit", "one"))) != form(Raised(InvalidArgumentError("owner", "one")))


def test_order_is_free_only_within_one_moment() -> None:
    def forms(*timers: tuple[str, int]) -> Any:
        execution = Model()
        execution.create_run(
            run_id="r",
            workflow_id="w",
            workflow_version="1",
            input=JsonText("1"),
            operation_id="o",
            now_ms=1,
        )
        found = execution.load_execution(run_id="r")
        assert isinstance(found, Execution)
        return form(replace(found, timers=tuple(Timer(timer_id=name, fire_at_ms=at) for name, at in timers)))

    assert forms(("a", 1), ("b", 1)) == forms(("b", 1), ("a", 1))
    assert forms(("a", 1), ("b", 2)) != forms(("b", 2), ("a", 1))


def test_a_reused_token_differs() -> None:
    """FENCE-3: a claim that gives an old token is told from one that gives a new token."""
    model, store = Tokens(), Tokens()
    for tokens in (model, store):
        tokens.learn("run", "r", "first")
    assert model.learn("run", "r", "second") != store.learn("run", "r", "first")


def test_unsettled_calls_change_nothing() -> None:
    model = Model()
    for schedule_id in ("a", "b"):
        model.upsert_schedule(
            schedule_id=schedule_id,
            workflow_id="w",
            workflow_version="1",
            spec=JsonText("1"),
            input=JsonText("1"),
            next_fire_at_ms=5,
            now_ms=1,
        )
    with pytest.raises(Unsettled, match="SCHEDULE-9"):
        model.claim_due_schedule_buckets(owner="o", lease_ms=5, now_ms=5, limit=1)
    assert isinstance(
        claims := model.claim_due_schedule_buckets(owner="o", lease_ms=5, now_ms=5, limit=2), BucketClaims
    )
    assert {type(tick.lease) for tick in claims.buckets} == {Lease}


def test_clauses_are_those_of_the_verb_or_of_its_role() -> None:
    assert clauses_of("read_events") == ("LOG-7",)
    assert clauses_of("cancel_runs") == ("BULK-1", "BULK-2", "BULK-3")
