"""The answers of calls that create many runs, or deliver many signals."""

from typing import Any

import pytest
from workflow_migrations import DEFAULT_TABLES
from workflow_runtime.payloads import JsonText
from workflow_runtime.store import RunToCreate, SignalToDeliver
from workflow_store_sql import Creations, Deliveries, RowReader, answer_signals, creation_id, creation_values

READ = RowReader(DEFAULT_TABLES)


def run(run_id: str, operation_id: str, input: str = "1", workflow_id: str = "w") -> RunToCreate:
    facts: dict[str, Any] = {"workflow_id": workflow_id, "workflow_version": "1", "input": JsonText(input)}
    return RunToCreate(run_id=run_id, operation_id=operation_id, **facts)


def stored(run_id: str, operation_id: str, same_input: bool | None, input: object = None) -> dict[str, Any]:
    operation = creation_id(operation_id)
    facts = {"run_id": run_id, "workflow_id": "w", "operation_id": operation}
    return {**facts, "same_input": same_input, "input": input}


def shown(creations: Creations) -> list[Any]:
    return [getattr(answer, "differs", "created") for answer in creations.answers()]


def test_new_runs_are_created() -> None:
    creations = Creations([run("b", "1"), run("a", "2")])
    assert [first.run_id for first in creations.firsts()] == ["a", "b"], "the order in which they are locked"
    assert [first.run_id for first in creations.firsts(["b"])] == ["b"]
    assert shown(creations) == ["created", "created"]


def test_second_of_one_id_is_compared_with_the_first() -> None:
    runs = [run("a", "1", '{"x":1,"y":2}'), run("a", "2", '{"y":2,"x":1}'), run("a", "3", "1", "v"), run("a", "1")]
    creations = Creations(runs)
    assert creations.firsts() == [runs[0]]
    assert shown(creations) == ["created", (), ("workflow_id", "input"), "created"]


@pytest.mark.parametrize(
    ("same", "found", "differs"),
    [
        (True, None, ((), ("input",))),
        (False, "2", (("input",), ())),
        (False, "1.0", (("input",), ("input",))),
        (None, None, (("input",), ("input",))),
        (False, "{damaged", (("input",), ("input",))),
        (False, b"1", (("input",), ("input",))),
    ],
)
def test_known_run_is_compared_with_each(same: bool | None, found: object, differs: object) -> None:
    creations = Creations([run("a", "1", "1"), run("a", "2", "2"), run("b", "3")])
    creations.note_stored([stored("a", "another", same, found)])
    assert tuple(shown(creations)[:2]) == differs
    assert shown(creations)[2] == "created"


def test_repeated_operation_has_created_it() -> None:
    creations = Creations([run("a", "1"), run("b", "2")])
    creations.note_stored([stored("a", "1", True), stored("b", "other", True)])
    assert shown(creations) == ["created", ()]


def test_values_of_a_new_run_have_their_time() -> None:
    assert creation_values(run("a", "1"), 7) == ("a", "w", "1", "default", 0, 7, "create_run:1", "1")


def head(status: str, inbox_seq: int = 0, known_seq: int | None = None, awaited: bool = False) -> dict[str, Any]:
    return {"status": status, "inbox_seq": inbox_seq, "known_seq": known_seq, "awaited": awaited}


def signal(run_id: str, signal_id: str) -> SignalToDeliver:
    return SignalToDeliver(run_id=run_id, signal_id=signal_id, name="go")


def test_signals_are_numbered_run_by_run() -> None:
    signals = [
        signal("a", "1"),
        signal("b", "1"),
        signal("a", "2"),
        signal("a", "3"),
        signal("b", "2"),
        signal("c", "1"),
    ]
    paused = head("paused", 4, awaited=True)
    before = {0: head("paused", 4), 1: head("finished"), 2: paused, 3: paused, 4: head("finished", known_seq=2)}
    answers = answer_signals(READ, signals, before)
    assert [(answer.kind, getattr(answer, "inbox_seq", None)) for answer in answers] == [
        ("buffered", 5),
        ("finished", None),
        ("delivered", 6),
        ("buffered", 7),
        ("duplicate", 2),
        ("not-found", None),
    ]


def test_second_of_one_signal_is_a_duplicate() -> None:
    deliveries = Deliveries([signal("a", "1"), signal("b", "1"), signal("a", "1"), signal("c", "1"), signal("c", "1")])
    assert deliveries.firsts == [signal("a", "1"), signal("b", "1"), signal("c", "1")]
    firsts = answer_signals(READ, deliveries.firsts, {0: head("running"), 1: head("queued", 1)})
    kinds = [answer.kind for answer in deliveries.answers(firsts)]
    assert kinds == ["buffered", "buffered", "duplicate", "not-found", "not-found"]
