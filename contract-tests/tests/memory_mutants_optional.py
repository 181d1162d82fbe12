"""Stores with one fault each in what a store may declare: following a run's log, telling of work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_contract_tests.suites import notify
from workflow_runtime.errors import RunNotFoundError
from workflow_runtime.store import Event, Listening, WorkNotice
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory.data import InMemoryData, WorkListener

IMPATIENT = (notify, "_LATE_S", 1.0)
"""Half of these faults are seen by waiting in vain."""

OnNotice = Callable[[WorkNotice], None]


@broken("SUBSCRIBE-1")
class FollowerEndsWithTheRun(Faulty):
    """Following ends as soon as the run has ended, whatever is left of its log."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        while run_id in self._data.runs:
            page = self.current(run_id).events[from_index : from_index + 1]
            for event in page:
                yield event
            from_index += len(page)
            if self.current(run_id).status.is_terminal:
                return
            await asyncio.sleep(0.001)
        raise RunNotFoundError(run_id)


@broken("SUBSCRIBE-1", words="It ends when the run is terminal", case="following_is_of_one_run")
class FollowerEndsWithAnyRun(Faulty):
    """Following ends when the run that was created first has ended."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        while run_id in self._data.runs:
            for event in self.current(run_id).events[from_index:]:
                yield event
                from_index += 1
            if next(iter(self._data.runs.values())).status.is_terminal:
                return
            await asyncio.sleep(0.001)
        raise RunNotFoundError(run_id)


@broken("SUBSCRIBE-1")
class FollowerGetsOnePage(Faulty):
    """Only the first page of a log is given."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
            yield event
            if event.index == from_index + 999:
                return


@broken("SUBSCRIBE-1", words="Gives every event", case="event_larger_than_a_page_is_given")
class FollowerMissesTheLargestEvents(Faulty):
    """An event that is larger than a page is left out."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
            if len(event.payload or "") < 10**6:
                yield event


@broken("SUBSCRIBE-1")
class FollowerBeginsAtTheBeginning(Faulty):
    """The index to begin with is ignored."""

    def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        return super().subscribe_events(run_id=run_id)


@broken("SUBSCRIBE-2")
class FollowerDoesNotWait(Faulty):
    """What there is is given, and that is all."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        for event in await self.read_events(run_id=run_id, from_index=from_index, limit=1_000):
            yield event


@broken("SUBSCRIBE-2")
class FollowerHearsItsOwnHandle(Faulty):
    """Only what this handle appends is given."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.appended = asyncio.Event()

    async def append_events(self, **arguments: Any) -> Any:
        answer = await super().append_events(**arguments)
        self.appended.set()
        return answer

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
            await self.appended.wait()
            yield event


@broken("SUBSCRIBE-3")
class FollowerWaitsForNobody(Faulty):
    """A run that is not there ends the following as if it had ended."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        try:
            async for event in super().subscribe_events(run_id=run_id, from_index=from_index):
                yield event
        except RunNotFoundError:
            return


@broken("SUBSCRIBE-3", words="also when its id has another run by then", case="longer_namesake_is_not_followed")
class FollowerTakesANamesakeForTheRun(Faulty):
    """A follower looks for the next index, whoever has the id by then."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        at = from_index
        while run_id in self._data.runs:
            for event in self.current(run_id).events[at:]:
                at += 1
                yield event
            await asyncio.sleep(0.01)
        raise RunNotFoundError(run_id)


@broken("SUBSCRIBE-4")
class FollowerCannotBeStopped(Faulty):
    """A follower that waits does not let itself be cancelled."""

    async def subscribe_events(self, *, run_id: str, from_index: int = 0) -> AsyncGenerator[Event, None]:
        events = super().subscribe_events(run_id=run_id, from_index=from_index)
        while True:
            coming = asyncio.ensure_future(anext(events, None))
            while not coming.done():
                try:
                    await asyncio.wait([coming])
                except asyncio.CancelledError:
                    continue
            event = coming.result()
            if event is None:
                return
            yield event


class _Unheard(Faulty):
    """A store of which one verb, called through it, tells nobody."""

    async def _in_silence(self, verb: str, arguments: dict[str, Any]) -> Any:
        data = self._data
        listeners, data.listeners = data.listeners, set()
        try:
            return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        finally:
            data.listeners = listeners


def _silent(verb: str) -> type[Faulty]:
    async def call(self: _Unheard, **arguments: Any) -> Any:
        return await self._in_silence(verb, arguments)

    name = "Silent" + "".join(part.title() for part in verb.split("_"))
    return type(name, (_Unheard,), {verb: call, "__doc__": f"`{verb}` tells nobody."})


for _verb in (
    "create_run",
    "fork_run",
    "deliver_signal",
    "deliver_approval",
    "cancel_run",
    "requeue_run",
    "retry_run",
    "deliver_retry",
    "release_run_lease",
    "mark_run_paused",
    "mark_schedule_bucket_started",
    "create_runs",
    "deliver_signals",
    "cancel_runs",
    "requeue_runs",
    "retry_runs",
):
    broken("NOTIFY-1", IMPATIENT)(_silent(_verb))


@broken("NOTIFY-1", IMPATIENT)
class RunForLaterIsNotTold(_Unheard):
    """A run that is not due yet is not told of, so no idle worker knows when it will be."""

    async def create_run(self, **arguments: Any) -> Any:
        if (arguments.get("available_at_ms") or 0) > arguments["now_ms"]:
            return await self._in_silence("create_run", arguments)
        return await super().create_run(**arguments)


_notify = InMemoryData.notify


def _notify_sometimes(data: InMemoryData, run_id: str) -> None:
    now = asyncio.get_running_loop().time()
    if now - getattr(data, "told_at", 0.0) > 0.02:
        data.told_at = now  # type: ignore[attr-defined]  # the mutant's own
        _notify(data, run_id)


@broken("NOTIFY-1", IMPATIENT, (InMemoryData, "notify", _notify_sometimes))
class NoticesOfABurstAreLost(Faulty):
    """What comes soon after a notice is not told, not even later."""


def _notify_unless_busy(data: InMemoryData, run_id: str) -> None:
    now = asyncio.get_running_loop().time()
    told_at, data.told_at = getattr(data, "told_at", 0.0), now  # type: ignore[attr-defined]  # the mutant's own
    if data.runs[run_id].forked_from_index is None or now - told_at > 0.02:
        _notify(data, run_id)


@broken(
    "NOTIFY-1",
    IMPATIENT,
    (InMemoryData, "notify", _notify_unless_busy),
    words="or forked",
    case="work_of_all_kinds_at_once_is_told",
)
class ForkBesideOtherWorkIsNotTold(Faulty):
    """A fork is told of unless something else was told just before."""


def _notify_of_no_tick_if_busy(data: InMemoryData, run_id: str | None) -> None:
    now = asyncio.get_running_loop().time()
    told_at, data.told_at = getattr(data, "told_at", 0.0), now  # type: ignore[attr-defined]  # the mutant's own
    if run_id is None or data.runs[run_id].schedule_id is None or now - told_at > 0.02:
        _notify(data, run_id)


def _notify_and_note(data: InMemoryData, run_id: str) -> None:
    data.told_at = asyncio.get_running_loop().time()  # type: ignore[attr-defined]  # the mutant's own
    _notify(data, run_id)


@broken(
    "NOTIFY-1",
    IMPATIENT,
    (InMemoryData, "notify", _notify_of_no_tick_if_busy),
    words="a tick starts one",
    case="ticks_beside_other_work_are_told",
)
class TickBesideOtherWorkIsNotTold(Faulty):
    """A run of a tick is told of unless something else was told just before."""


@broken(
    "NOTIFY-1",
    IMPATIENT,
    (InMemoryData, "notify", _notify_and_note),
    words="requeued",
    case="work_of_all_kinds_at_once_is_told",
)
class RequeueBesideOtherWorkIsNotTold(_Unheard):
    """A run that is requeued is told of unless something else was told just before."""

    async def requeue_run(self, **arguments: Any) -> Any:
        await asyncio.sleep(0.001)
        if asyncio.get_running_loop().time() - getattr(self._data, "told_at", 0.0) <= 0.02:
            return await self._in_silence("requeue_run", arguments)
        return await super().requeue_run(**arguments)


@broken("NOTIFY-1", IMPATIENT)
class OnlyTheOwnHandleHears(Faulty):
    """Work that is made through another handle is not told."""

    def listen(self, on_notice: OnNotice) -> AbstractAsyncContextManager[Listening]:
        def filtered(notice: WorkNotice) -> None:
            if notice.run_id is None or notice.run_id in self.made:
                on_notice(notice)

        return super().listen(filtered)

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.made: set[str] = set()

    async def create_run(self, **arguments: Any) -> Any:
        self.made.add(arguments["run_id"])
        return await super().create_run(**arguments)


@broken("NOTIFY-2", IMPATIENT)
class NoticeComesTooEarly(Faulty):
    """Listeners are told before the run is there."""

    async def create_run(self, **arguments: Any) -> Any:
        self._data.notify(arguments["run_id"])
        await asyncio.sleep(0.01)
        return await super().create_run(**arguments)


@broken("NOTIFY-3", IMPATIENT)
class ListeningBeginsInSilence(Faulty):
    """Who begins to listen is not told to look for what is there already."""

    def listen(self, on_notice: OnNotice) -> AbstractAsyncContextManager[Listening]:
        return super().listen(lambda notice: None if notice.run_id is None else on_notice(notice))


@broken("NOTIFY-4")
class ListenerIsNeverForgotten(Faulty):
    """Notices go on after the block."""

    @asynccontextmanager
    async def listen(self, on_notice: OnNotice) -> AsyncGenerator[Listening, None]:
        async with super().listen(on_notice) as listening:
            yield listening
        self._data.listeners.add(WorkListener(asyncio.get_running_loop(), on_notice))


@broken("NOTIFY-5")
class AppendIsTold(Faulty):
    """Each append is told."""

    async def append_events(self, **arguments: Any) -> Any:
        answer = await super().append_events(**arguments)
        self._data.notify(arguments["run_id"])
        return answer


@broken("NOTIFY-5")
class EveryDeliveryIsTold(Faulty):
    """A signal that only lies in the inbox is told."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        answer = await super().deliver_signal(**arguments)
        self._data.notify(arguments["run_id"])
        return answer


@broken("NOTIFY-5", words="ends", case="what_nobody_waits_for_is_not_told")
class TerminationOfManyIsTold(Faulty):
    """Runs that are ended at once are told of."""

    async def terminate_runs(self, **arguments: Any) -> Any:
        answers = await super().terminate_runs(**arguments)
        self._data.notify(None)
        return answers


@broken("NOTIFY-5", words="What no worker waits for is not told", case="what_nobody_waits_for_is_not_told")
class RepeatedForkIsTold(Faulty):
    """A fork that is there already is told of again."""

    async def fork_run(self, **arguments: Any) -> Any:
        if arguments["new_run_id"] in self._data.runs:
            self._data.notify(arguments["new_run_id"])
        return await super().fork_run(**arguments)
