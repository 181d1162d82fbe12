"""Stores with one fault each in forks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.store import Existing, Forked, NotForkable
from workflow_store_memory.data import Run


class _OfForks(Faulty):
    def _source(self, arguments: dict[str, Any]) -> Run | None:
        return self._data.runs.get(arguments["run_id"])

    def _fork(self, answer: Any) -> Run | None:
        return self._data.runs[answer.run.run_id] if isinstance(answer, Forked) else None


@broken("FORK-1")
class ForkHasTheInbox(_OfForks):
    """What lies in the other run's inbox comes along."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        source, fork = self._source(arguments), self._fork(answer)
        if fork is not None and source is not None and not fork.inbox:
            fork.inbox, fork.untaken, fork.deliveries = (
                list(source.inbox),
                dict(source.untaken),
                dict(source.deliveries),
            )
        return answer


@broken("FORK-1")
class ForkHasTheTimers(_OfForks):
    """The other run's timers come along."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        source, fork = self._source(arguments), self._fork(answer)
        if fork is not None and source is not None:
            fork.timers = dict(source.timers)
        return answer


@broken("FORK-1")
class ForkForgetsItsTick(_OfForks):
    """The fork of a schedule's run does not know the schedule."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        fork = self._fork(answer)
        if fork is not None:
            fork.schedule_id = fork.scheduled_at_ms = None
        return answer


@broken("FORK-1")
class ForkSaysNothingOfItsOrigin(_OfForks):
    """The event that tells of the fork is left out."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        fork = self._fork(answer)
        if fork is not None and fork.next_index == arguments["from_index"] + 1:
            fork.events.pop()
            answer = Forked(run=replace(answer.run, next_index=fork.next_index))
        return answer


@broken("FORK-1")
class ForkSharesTheLog(_OfForks):
    """Both runs write into one log."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        source, fork = self._source(arguments), self._fork(answer)
        if fork is not None and source is not None:
            source.events[:] = fork.events
            fork.events = source.events
        return answer


@broken("FORK-2")
class ForkIsReadInPieces(_OfForks):
    """The log is copied event by event while others write, and cut where it then ends."""

    async def fork_run(self, **arguments: Any) -> Any:
        source = self._source(arguments)
        length = 0 if source is None else source.next_index
        if source is not None and length < arguments["from_index"] and arguments["new_run_id"] not in self._data.runs:
            answer = await super().fork_run(**arguments | {"from_index": length})
            fork = self._fork(answer)
            if fork is not None:
                fork.forked_from_index = arguments["from_index"]
            return answer
        return await super().fork_run(**arguments)


@broken("FORK-3")
class ShortLogIsForked(_OfForks):
    """Of a log that is too short all of it is taken."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        if isinstance(answer, NotForkable):
            return await super().fork_run(**arguments | {"from_index": answer.next_index})
        return answer


@broken("FORK-4")
class ForkOverwrites(_OfForks):
    """A known id is taken by the new run."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        if isinstance(answer, Existing) and answer.differs and arguments["run_id"] != arguments["new_run_id"]:
            self._data.runs.pop(arguments["new_run_id"])
            return await super().fork_run(**arguments)
        return answer


@broken("FORK-4")
class DifferencesOfForksAreNotTold(_OfForks):
    """A known id counts as the same fork."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        return replace(answer, differs=()) if isinstance(answer, Existing) else answer


@broken("SCHEDULE-13")
class RunDoesNotKnowItsTick(_OfForks):
    """The run of a tick is like any other."""

    async def mark_schedule_bucket_started(self, **arguments: Any) -> Any:
        answer = await super().mark_schedule_bucket_started(**arguments)
        run = self._data.runs.get(arguments.get("run_id") or "")
        if run is not None:
            run.scheduled_at_ms = None
        return answer


@broken("FORK-4", words="answers `existing`", case="answer_about_a_known_id_brings_its_run")
class ForkOfAKnownIdLeavesOutWhatItWaitsFor(_OfForks):
    """The run that has the id already comes without the list of what it waits for."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer: Any = await super().fork_run(**arguments)
        if isinstance(answer, Existing):
            answer = replace(answer, run=replace(answer.run, awaited=(), first_awaited=(), awaited_count=0))
        return answer
