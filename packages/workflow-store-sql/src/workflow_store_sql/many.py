"""Calls that create many runs, or deliver many signals: the rows that go to the database, and the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from workflow_runtime.store import (
    AlreadyFinished,
    Buffered,
    CreatedOfMany,
    CreateManyResult,
    Delivered,
    DeliverSignalResult,
    Duplicate,
    ExistingOfMany,
    JsonText,
    NotFound,
    RunToCreate,
    SignalToDeliver,
    same_json,
)

from .answers import ENDED
from .creation import creation_id
from .rows import Row, RowReader

__all__ = ["Creations", "Deliveries", "answer_signals", "creation_values"]

_CREATED = CreatedOfMany()


def creation_values(run: RunToCreate, now_ms: int) -> tuple[str, str, str, str, int, int, str, JsonText]:
    """Return the values of a new run: id, workflow, version, queue, priority, due time, operation, and input."""
    due_at_ms = now_ms if run.available_at_ms is None else run.available_at_ms
    operation = creation_id(run.operation_id)
    facts = (run.run_id, run.workflow_id, run.workflow_version, run.queue, run.priority)
    return (*facts, due_at_ms, operation, run.input)


class Creations:
    """The runs of a call of `create_runs`. Of those with one id the first goes to the database.

    Args:
        runs: As the call has them.
    """

    def __init__(self, runs: Sequence[RunToCreate]) -> None:
        self._runs = runs
        self._firsts: dict[str, RunToCreate] = {}
        for run in runs:
            self._firsts.setdefault(run.run_id, run)
        self._stored: dict[str, _StoredRun] = {}

    def firsts(self, run_ids: Iterable[str] | None = None) -> list[RunToCreate]:
        """Return the runs that go to the database, in the order of their ids; with ids given, only those."""
        return [self._firsts[run_id] for run_id in sorted(self._firsts if run_ids is None else run_ids)]

    def note_stored(self, rows: Iterable[Row]) -> None:
        """Take note of runs that were there before.

        The columns: `run_id`, `workflow_id`, `operation_id`; `same_input`, whether the stored input is the very text of
        the run that went to the database; `input`, what is stored where it is not.
        """
        for row in rows:
            stored = self._firsts[row["run_id"]].input if row["same_input"] else row["input"]
            self._stored[row["run_id"]] = _StoredRun(row["operation_id"], row["workflow_id"], stored)

    def answers(self) -> tuple[CreateManyResult, ...]:
        """Answer the call: a run that was not there before is created."""
        if not self._stored and len(self._firsts) == len(self._runs):
            return (_CREATED,) * len(self._runs)
        return tuple(map(self._answer, self._runs))

    def _answer(self, run: RunToCreate) -> CreateManyResult:
        stored = self._stored.get(run.run_id)
        if stored is None:
            first = self._firsts[run.run_id]
            stored = _StoredRun(creation_id(first.operation_id), first.workflow_id, first.input)
        if stored.operation == creation_id(run.operation_id):
            return _CREATED
        return ExistingOfMany(run_id=run.run_id, differs=tuple(stored.differing(run)))


class _StoredRun(NamedTuple):
    """The stored facts of a run that its answer depends on."""

    operation: str
    workflow_id: str
    input: str | None

    def differing(self, run: RunToCreate) -> Iterator[str]:
        """Name what is not as it was asked for."""
        if self.workflow_id != run.workflow_id:
            yield "workflow_id"
        if not self._has_input(run.input):
            yield "input"

    def _has_input(self, input: JsonText) -> bool:
        if not isinstance(self.input, str):  # the row is damaged
            return False
        try:
            return same_json(JsonText(self.input), input)
        except (ValueError, RecursionError):
            return False


class Deliveries:
    """The signals of a call of `deliver_signals`. Of those with one id for one run the first goes to the database.

    Args:
        signals: As the call has them.
    """

    def __init__(self, signals: Sequence[SignalToDeliver]) -> None:
        self._signals = signals
        firsts: dict[tuple[str, str], SignalToDeliver] = {}
        for signal in signals:
            firsts.setdefault((signal.run_id, signal.signal_id), signal)
        self.firsts: list[SignalToDeliver] = list(firsts.values())
        """The signals that go to the database, in the order of the call."""

    def answers(self, of_firsts: Sequence[DeliverSignalResult]) -> tuple[DeliverSignalResult, ...]:
        """Answer the call.

        Args:
            of_firsts: The answers to what went to the database, in that order.
        """
        if len(self.firsts) == len(self._signals):
            return tuple(of_firsts)
        given = {
            (signal.run_id, signal.signal_id): answer for signal, answer in zip(self.firsts, of_firsts, strict=True)
        }
        answers = []
        for signal in self._signals:
            key = signal.run_id, signal.signal_id
            answers.append(given[key])
            given[key] = _again(given[key])
        return tuple(answers)


def _again(answer: DeliverSignalResult) -> DeliverSignalResult:
    """Return the answer to the same delivery right afterwards."""
    return Duplicate(inbox_seq=answer.inbox_seq) if isinstance(answer, Delivered | Buffered) else answer


def answer_signals(
    read: RowReader, signals: Sequence[SignalToDeliver], before: Mapping[int, Row]
) -> list[DeliverSignalResult]:
    """Answer signals, none of them twice, that were delivered one after the other by one transaction.

    Args:
        read: The store's codec.
        signals: What was delivered.
        before: The head of each signal's run as it was before, by the signal's place; none for a run that is not there.
            The columns: `status`, `inbox_seq`, and those of `answer_signal`: `known_seq`, `awaited`.
    """
    added: Counter[str] = Counter()
    woken: set[str] = set()
    answers: list[DeliverSignalResult] = []
    for place, signal in enumerate(signals):
        row, run_id = before.get(place), signal.run_id
        if row is None:
            answers.append(NotFound())
        elif row["known_seq"] is not None:
            answers.append(Duplicate(inbox_seq=row["known_seq"]))
        elif (status := read.status(row["status"], run_id)) in ENDED:
            answers.append(AlreadyFinished(status=status))
        else:
            added[run_id] += 1
            seq = row["inbox_seq"] + added[run_id]
            wakes = row["awaited"] and run_id not in woken
            answers.append(Delivered(inbox_seq=seq) if wakes else Buffered(inbox_seq=seq))
            if wakes:
                woken.add(run_id)
    return answers
