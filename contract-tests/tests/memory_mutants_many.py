"""Stores with one fault each in calls that create many runs, or deliver many signals."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import RunConflictError, RunNotFoundError
from workflow_runtime.store import (
    MAX_BULK_BYTES,
    MAX_BULK_RUNS,
    Buffered,
    CreatedOfMany,
    Delivered,
    Duplicate,
    ExistingOfMany,
    NotFound,
    RunStatus,
    RunToCreate,
    new_id,
)


class _Creations(Faulty):
    """Changes what `create_runs` answers, or is asked."""

    async def create_runs(self, **arguments: Any) -> Any:
        answers = await super().create_runs(**arguments | {"runs": self.asked(arguments["runs"])})
        return self.changed(answers, arguments["runs"])

    def asked(self, runs: Any) -> Any:
        return runs

    def changed(self, answers: Any, runs: Any) -> Any:
        return answers


class _Deliveries(Faulty):
    """Changes what `deliver_signals` answers, or is asked."""

    async def deliver_signals(self, **arguments: Any) -> Any:
        answers = await super().deliver_signals(**arguments | {"signals": self.asked(arguments["signals"])})
        return self.changed(answers, arguments["signals"])

    def asked(self, signals: Any) -> Any:
        return signals

    def changed(self, answers: Any, signals: Any) -> Any:
        return answers


@broken("BULK-4", words="Its answer, in the order of `runs`", case="answers_of_creations_are_in_order")
class CreationsAreAnsweredByTheirIds(_Creations):
    """The answers come in the order of the run ids."""

    def changed(self, answers: Any, runs: Any) -> Any:
        pairs = zip(runs, answers, strict=True)
        return tuple(answer for _, answer in sorted(pairs, key=lambda pair: pair[0].run_id))


@broken("BULK-4", words="Each run is dealt with", case="runs_are_created_as_one_by_one")
class LastRunOfManyIsForgotten(_Creations):
    """The last of many runs is answered for, and never created."""

    def asked(self, runs: Any) -> Any:
        return runs[:-1] if len(runs) > 1 else runs

    def changed(self, answers: Any, runs: Any) -> Any:
        return (*answers, CreatedOfMany()) if len(runs) > 1 else answers


@broken("BULK-4", words="as by `create_run` without a claim", case="runs_are_created_as_one_by_one")
class RunsOfManyAreDueAtOnce(_Creations):
    """The due time of one of many runs is lost."""

    def asked(self, runs: Any) -> Any:
        return [replace(run, available_at_ms=None) if isinstance(run, RunToCreate) else run for run in runs]


@broken("BULK-4", words="as by `create_run` without a claim", case="created_runs_are_claimed_in_their_order")
class RunsOfManyHaveNoPriority(_Creations):
    """The priority of one of many runs is lost."""

    def asked(self, runs: Any) -> Any:
        return [replace(run, priority=min(run.priority, 0)) for run in runs]


@broken("BULK-4", words="one after the other", case="id_that_stands_twice_is_created_once")
class LastOfOneIdIsCreated(_Creations):
    """Of two runs of one id in a call the last one is kept."""

    def asked(self, runs: Any) -> Any:
        last = {run.run_id: run for run in runs}
        return [last[run.run_id] for run in runs]


@broken("BULK-4", words="also where a run id stands there twice", case="id_that_stands_twice_is_created_once")
class SecondOfOneIdIsCreatedToo(_Creations):
    """Each of two runs of one id in a call is answered with `created`."""

    def changed(self, answers: Any, runs: Any) -> Any:
        created = {run.run_id for run, answer in zip(runs, answers, strict=True) if answer.kind == "created"}
        return tuple(
            CreatedOfMany() if run.run_id in created else answer for run, answer in zip(runs, answers, strict=True)
        )


@broken("BULK-4", words="a call is repeated with its operation ids", case="repeated_creations_are_created_again")
class RepeatedCreationsExist(_Creations):
    """Created again by the same operations, many runs are `existing`."""

    def asked(self, runs: Any) -> Any:
        return [replace(run, operation_id=new_id()) for run in runs]


@broken("BULK-4", words="whatever becomes of the others", case="runs_are_created_as_one_by_one")
class OneConflictOfManyIsRaised(_Creations):
    """One run of many that is there, and is another one, raises."""

    def changed(self, answers: Any, runs: Any) -> Any:
        for answer in answers:
            if isinstance(answer, ExistingOfMany) and answer.differs:
                raise RunConflictError(answer.run_id, answer.differs)
        return answers


@broken("BULK-4", words="or `existing` with what differs", case="answers_of_creations_are_in_order")
class NothingDiffersAmongMany(_Creations):
    """What differs is not told of many runs."""

    def changed(self, answers: Any, runs: Any) -> Any:
        return tuple(
            replace(answer, differs=()) if isinstance(answer, ExistingOfMany) else answer for answer in answers
        )


@broken("BULK-4", words="Without runs nothing happens", case="without_runs_nothing_is_created")
class NoRunsAreAnswered(_Creations):
    """A call without runs is answered."""

    def changed(self, answers: Any, runs: Any) -> Any:
        return answers or (CreatedOfMany(),)


@broken("BULK-2", words="Each run's own change", case="creations_that_meet_create_each_run_once")
class CreationsLookFirst(Faulty):
    """Of many runs those that are not there are found in one unit, and said to be created by the next."""

    async def create_runs(self, **arguments: Any) -> Any:
        new = {run.run_id for run in arguments["runs"] if run.run_id not in self._data.runs}
        await asyncio.sleep(0)
        answers = await super().create_runs(**arguments)
        pairs = zip(arguments["runs"], answers, strict=True)
        return tuple(CreatedOfMany() if run.run_id in new else answer for run, answer in pairs)


@broken("BULK-3", words="More than `MAX_BULK_RUNS` ids, runs or signals", case="too_many_and_bad_runs_are_refused")
class AnyNumberOfRuns(Faulty):
    """As many runs as are wanted are created by one call."""

    async def create_runs(self, **arguments: Any) -> Any:
        answers: tuple[Any, ...] = ()
        for first in range(0, len(arguments["runs"]) or 1, MAX_BULK_RUNS):
            chunk = arguments["runs"][first : first + MAX_BULK_RUNS]
            answers += await super().create_runs(**arguments | {"runs": chunk})
        return answers


@broken("BULK-3", words="before anything is written", case="too_many_and_bad_runs_are_refused")
class RunsAreCheckedOneByOne(Faulty):
    """A bad run is refused after the good ones before it were created."""

    async def create_runs(self, **arguments: Any) -> Any:
        runs = arguments["runs"]
        large = sum(getattr(run, "bulk_bytes", 0) for run in runs) > MAX_BULK_BYTES
        if large or len(runs) > MAX_BULK_RUNS:
            return await super().create_runs(**arguments)
        answers: tuple[Any, ...] = ()
        for run in runs:
            answers += await super().create_runs(**arguments | {"runs": [run]})
        return answers


@broken("BULK-3", words="more than `MAX_BULK_BYTES`", case="too_many_and_bad_runs_are_refused")
class RunsOfAnySize(Faulty):
    """Many large runs are created by one call."""

    async def create_runs(self, **arguments: Any) -> Any:
        runs = arguments["runs"]
        large = sum(getattr(run, "bulk_bytes", 0) for run in runs) > MAX_BULK_BYTES
        if not large or len(runs) > MAX_BULK_RUNS:
            return await super().create_runs(**arguments)
        return sum([await super(RunsOfAnySize, self).create_runs(**arguments | {"runs": [run]}) for run in runs], ())


@broken("BULK-5", words="in the order of `signals`", case="signals_for_one_run_keep_their_order")
class SignalsOfManyAreSorted(_Deliveries):
    """Signals are delivered in the order of their ids."""

    async def deliver_signals(self, **arguments: Any) -> Any:
        signals = arguments["signals"]
        order = sorted(range(len(signals)), key=lambda place: str(signals[place]))
        answers = await super().deliver_signals(**arguments | {"signals": [signals[place] for place in order]})
        by_place = dict(zip(order, answers, strict=True))
        return tuple(by_place[place] for place in range(len(signals)))


@broken("BULK-5", words="its answer is that verb's", case="signals_are_delivered_as_one_by_one")
class SignalsOfManyAreBuffered(_Deliveries):
    """Many signals are answered as if no run waited for one."""

    def changed(self, answers: Any, signals: Any) -> Any:
        return tuple(
            Buffered(inbox_seq=answer.inbox_seq) if isinstance(answer, Delivered) else answer for answer in answers
        )


@broken("BULK-5", words="Each signal is dealt with as by `deliver_signal`", case="signals_are_delivered_as_one_by_one")
class SignalsOfManyWakeNobody(_Deliveries):
    """A run that waits for one of many signals goes on waiting."""

    async def deliver_signals(self, **arguments: Any) -> Any:
        ids = {getattr(signal, "run_id", "") for signal in arguments["signals"]}
        paused = [run for run in map(self._data.runs.get, ids) if run is not None and run.status is RunStatus.PAUSED]
        awaited = [run.awaited for run in paused]
        answers = await super().deliver_signals(**arguments)
        for run, waits in zip(paused, awaited, strict=True):
            if run.status is RunStatus.QUEUED:
                run.make_paused(arguments["now_ms"])
                run.awaited = waits
        return answers


@broken("BULK-5", words="whatever becomes of the others", case="signals_are_delivered_as_one_by_one")
class OneUnknownRunOfManyIsRaised(_Deliveries):
    """A signal for a run that is not there raises, whatever became of the others."""

    def changed(self, answers: Any, signals: Any) -> Any:
        if any(isinstance(answer, NotFound) for answer in answers):
            raise RunNotFoundError("one of many")
        return answers


@broken("BULK-5", words="get their numbers in that order", case="signals_for_one_run_keep_their_order")
class SignalsOfManyAreGatheredByRun(_Deliveries):
    """The answers come run by run."""

    def changed(self, answers: Any, signals: Any) -> Any:
        pairs = zip(signals, answers, strict=True)
        return tuple(answer for _, answer in sorted(pairs, key=lambda pair: str(pair[0].run_id)))


@broken(
    "BULK-5",
    words="the first that it waits for is `delivered`",
    case="signals_for_one_run_keep_their_order",
)
class EverySignalIsDelivered(_Deliveries):
    """Each signal to a run that waited is `delivered`."""

    def changed(self, answers: Any, signals: Any) -> Any:
        waited = {s.run_id for s, answer in zip(signals, answers, strict=True) if isinstance(answer, Delivered)}
        return tuple(
            Delivered(inbox_seq=answer.inbox_seq)
            if isinstance(answer, Buffered) and signal.run_id in waited
            else answer
            for signal, answer in zip(signals, answers, strict=True)
        )


@broken(
    "BULK-5",
    words="a `signal_id` that stands there twice for it is a `duplicate`",
    case="signal_that_stands_twice_acts_once",
)
class SecondOfOneSignalIsAnsweredAlike(_Deliveries):
    """The second of two equal signals in one call gets the answer of the first."""

    def changed(self, answers: Any, signals: Any) -> Any:
        first: dict[Any, Any] = {}
        for signal, answer in zip(signals, answers, strict=True):
            first.setdefault((signal.run_id, signal.signal_id), answer)
        return tuple(first[signal.run_id, signal.signal_id] for signal in signals)


@broken(
    "BULK-5",
    words="a `signal_id` that stands there twice for it is a `duplicate`",
    case="signal_that_stands_twice_acts_once",
)
class SignalIdOfManyCountsForAllRuns(_Deliveries):
    """A signal id that went to another run of the call is a duplicate."""

    def asked(self, signals: Any) -> Any:
        first: dict[str, Any] = {}
        for signal in signals:
            first.setdefault(signal.signal_id, signal)
        return [replace(signal, run_id=first[signal.signal_id].run_id) for signal in signals]


@broken("BULK-5", words="Without signals nothing happens", case="without_signals_nothing_is_delivered")
class NoSignalsAreAnswered(_Deliveries):
    """A call without signals is answered."""

    def changed(self, answers: Any, signals: Any) -> Any:
        return answers or (NotFound(),)


@broken("BULK-2", words="and each signal's, is one unit", case="deliveries_that_meet_number_without_gaps")
class SignalsOfManyAreNumberedBefore(Faulty):
    """Many signals are numbered by what the inboxes held before another turn of the event loop."""

    async def deliver_signals(self, **arguments: Any) -> Any:
        known = {
            (run.run_id, delivery_id)
            for run in self._data.runs.values()
            for kind, delivery_id in run.deliveries
            if kind == "signal"
        }
        await asyncio.sleep(0)
        answers = await super().deliver_signals(**arguments)
        return tuple(
            Buffered(inbox_seq=answer.inbox_seq)
            if isinstance(answer, Duplicate) and (signal.run_id, signal.signal_id) not in known
            else answer
            for signal, answer in zip(arguments["signals"], answers, strict=True)
        )


@broken("BULK-3", words="and so are bad ones", case="too_many_and_bad_signals_are_refused")
class SignalsAreCheckedOneByOne(Faulty):
    """A bad signal is refused after the good ones before it were delivered."""

    async def deliver_signals(self, **arguments: Any) -> Any:
        signals = arguments["signals"]
        large = sum(getattr(signal, "bulk_bytes", 0) for signal in signals) > MAX_BULK_BYTES
        if large or len(signals) > MAX_BULK_RUNS:
            return await super().deliver_signals(**arguments)
        answers: tuple[Any, ...] = ()
        for signal in signals:
            answers += await super().deliver_signals(**arguments | {"signals": [signal]})
        return answers
