"""The calls of an application about its schedules."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from functools import partial
from itertools import islice, takewhile
from typing import Any, Literal, TypeAlias

from ..clock import from_ms, to_ms
from ..engine.definition import Registry
from ..errors import (
    CapabilityNotSupportedError,
    ConfigurationError,
    CorruptRecordError,
    InvalidArgumentError,
    ScheduleConflictError,
    ScheduleNotFoundError,
    StoreError,
)
from ..handles import RunHandle
from ..ids import check_id
from ..isolation import outside_handlers
from ..logs import get_logger, one_line
from ..payloads import ExactCodec
from ..store import DeleteScheduleResult, RequestedOverlap, WorkflowExecutionStore, about
from ..store import Schedule as StoredSchedule
from .backfill import Backfill, BackfillStatus, read_status
from .conversions import definition_in, definition_to_store, spec_in, spec_of
from .decisions import first_after, tick_run_id
from .definition import Schedule
from .record import ScheduleRecord
from .verbs import schedule_verbs

__all__ = ["Schedules"]

logger = get_logger("workflow_runtime")

_PAGE = 100
_REQUESTED_AT_ONCE = 1_000
_CONFLICTS = 20
"""Number of concurrent changes after which a change gives up."""
_MOMENTS = 100
"""Number of milliseconds, from the present on, that are tried for a tick fired by hand."""
_MAX_TIMES = 10_000


@outside_handlers
class Schedules:
    """The schedules of a store: `runtime.schedules`.

    On a store that leaves schedules out, every call that needs the store raises `CapabilityNotSupportedError`.
    """

    def __init__(
        self,
        *,
        store: WorkflowExecutionStore,
        registry: Registry,
        codec: ExactCodec,
        declared: Sequence[Schedule[Any]],
        now_ms: Callable[[], Awaitable[int]],
        on_change: Callable[[], None],
    ) -> None:
        self._store = store
        self._verbs = schedule_verbs(store)
        self._registry = registry
        self._codec = codec
        self._declared = _checked(declared, registry)
        self._now_ms = now_ms
        self._on_change = on_change
        self._unfit: dict[str, Unfit] | None = None
        """Reason why the store is unfit; `None` before the store was looked at."""

    async def unfit(self) -> Mapping[str, Unfit]:
        """Return which declared schedules are `missing` in the store, or there as something that `differs`, and log it.

        What cannot be written at all is `unwritable`, and all of them are `unsupported` by a store without schedules.
        Looks once; not at all if this runtime has brought them in.
        """
        if self._unfit is None:
            try:
                found = {schedule.id: await self._unfitness(schedule) for schedule in self._declared}
            except CapabilityNotSupportedError:
                found = {schedule.id: "unsupported" for schedule in self._declared}
            except StoreError as error:
                logger.debug("cannot look for the declared schedules: %s", one_line(error))
                return {}
            self._unfit = {schedule_id: problem for schedule_id, problem in found.items() if problem is not None}
            for schedule_id, problem in self._unfit.items():
                logger.warning("schedule %r is declared, but %s", schedule_id, one_line(_SAID[problem]))
        return self._unfit

    async def materialize(self) -> dict[str, Literal["created", "updated"]]:
        """Bring the store up to what `WorkflowRuntime(schedules=...)` declares; see `materialize_schedules`."""
        changes: dict[str, Literal["created", "updated"]] = {}
        for schedule in self._declared:
            kind, _ = await self._put(schedule)
            if kind != "unchanged":
                changes[schedule.id] = kind
        self._unfit = {}
        return changes

    async def create(self, schedule: Schedule[Any]) -> ScheduleRecord:
        """Create a schedule, or change the one of that id to this definition. It keeps a pause and its past.

        Raises:
            UnknownWorkflowError: This runtime does not know the workflow.
            InvalidPayloadError: The input cannot be carried.
        """
        _, stored = await self._put(schedule)
        if self._unfit is not None:
            self._unfit.pop(schedule.id, None)
        return self._record(stored)

    async def get(self, schedule_id: str) -> ScheduleRecord:
        """Read one schedule.

        Raises:
            ScheduleNotFoundError: There is none of that id.
        """
        return self._record(await self._verbs.get_schedule(schedule_id=check_id("schedule_id", schedule_id)))

    async def list(self) -> AsyncIterator[ScheduleRecord]:
        """Go through all schedules, ordered by id."""
        cursor: str | None = None
        while True:
            page = await self._verbs.list_schedules(limit=_PAGE, cursor=cursor)
            for stored in page.schedules:
                yield self._record(stored)
            cursor = page.next_cursor
            if cursor is None:
                return

    async def delete(self, schedule_id: str) -> DeleteScheduleResult:
        """Remove a schedule and the ticks that wait. The runs that it started stay."""
        answer = await self._verbs.delete_schedule(schedule_id=check_id("schedule_id", schedule_id))
        return about(answer, schedule_id=schedule_id)

    async def pause(self, schedule_id: str) -> ScheduleRecord:
        """Stop a schedule from firing until it is resumed; on request it still fires.

        Raises:
            ScheduleNotFoundError: There is none of that id.
            ScheduleConflictError: It was changed concurrently each time.
        """
        return self._record(await self._set_enabled(schedule_id, enabled=False))

    async def resume(self, schedule_id: str) -> ScheduleRecord:
        """Make a paused schedule fire again, from now on: the ticks of the pause are not made up for.

        Raises:
            ScheduleNotFoundError: There is none of that id.
            ScheduleConflictError: It was changed concurrently each time.
            CorruptRecordError: Its definition cannot be read.
        """
        return self._record(await self._set_enabled(schedule_id, enabled=True))

    async def trigger(self, schedule_id: str) -> RunHandle[Any]:
        """Fire a schedule once, now, paused or not; some worker will do it.

        Returns:
            The run that will start. The schedule's overlap policy holds: a tick that it skips starts none, and the
            handle's methods then raise `RunNotFoundError`.

        Raises:
            ScheduleNotFoundError: There is none of that id.
        """
        schedule_id = check_id("schedule_id", schedule_id)
        spec = spec_in(await self._verbs.get_schedule(schedule_id=schedule_id))
        now_ms = await self._now_ms()
        for fire_at_ms in range(now_ms, now_ms + _MOMENTS):
            run_id = tick_run_id(schedule_id, fire_at_ms)
            # A moment of its own: the moments of ticks and of other triggers name other runs.
            if spec.next_after(fire_at_ms - 1) == fire_at_ms or await self._store.load_run(run_id=run_id) is not None:
                continue
            if await self._request(schedule_id, [fire_at_ms], now_ms):
                self._on_change()
                return RunHandle(run_id, store=self._store, codec=self._codec, created=False)
        raise ScheduleConflictError(schedule_id)

    async def backfill(
        self, schedule_id: str, start: datetime, end: datetime, *, overlap: RequestedOverlap | None = None
    ) -> Backfill:
        """Fire the ticks of a period, also of one before the schedule was there; workers will do it, oldest first.

        A tick whose run is still in the store starts none.

        Args:
            schedule_id: Which schedule.
            start: The first moment of the period (an aware datetime).
            end: The end of the period; a tick at that very moment is not part of it.
            overlap: What becomes of a tick while the run of another one is live, in place of the schedule's overlap
                policy. `allow` starts all of them at once; with `buffer-all` each waits for its turn, and none is left
                out. By default the schedule's policy holds: with `skip`, ticks are left out. A tick that was waiting
                already keeps what was asked for first.

        Returns:
            How many ticks will be fired; its `status()` says what has become of them.

        Raises:
            ScheduleNotFoundError: There is none of that id.
            InvalidArgumentError: The period has more than 10,000 ticks.
        """
        schedule_id = check_id("schedule_id", schedule_id)
        ticks_ms = await self._ticks_of(schedule_id, start, end)
        now_ms = await self._now_ms()
        count = 0
        for first in range(0, len(ticks_ms), _REQUESTED_AT_ONCE):
            some_ms = ticks_ms[first : first + _REQUESTED_AT_ONCE]
            count += await self._request(schedule_id, some_ms, now_ms, overlap)
        self._on_change()
        return Backfill(
            schedule_id=schedule_id,
            ticks=[from_ms(tick_ms) for tick_ms in ticks_ms],
            requested=count,
            status=partial(read_status, self._store, schedule_id, ticks_ms),
        )

    async def backfill_status(self, schedule_id: str, start: datetime, end: datetime) -> BackfillStatus:
        """Return the outcomes of the ticks of a period, however they were requested.

        Args:
            schedule_id: Which schedule.
            start: As for `backfill`.
            end: As for `backfill`.

        Raises:
            ScheduleNotFoundError: There is none of that id.
            InvalidArgumentError: The period has more than 10,000 ticks.
        """
        schedule_id = check_id("schedule_id", schedule_id)
        return await read_status(self._store, schedule_id, await self._ticks_of(schedule_id, start, end))

    async def next_fire_times(
        self, schedule: Schedule[Any] | str, count: int, *, after: datetime | None = None
    ) -> Sequence[datetime]:
        """Return when a schedule will fire, without firing: as if it were not paused.

        Args:
            schedule: A schedule, or the id of one in the store.
            count: So many times, at most 10,000; fewer when it ends before.
            after: Only later ones; the present when absent.

        Returns:
            Moments in UTC.

        Raises:
            ScheduleNotFoundError: There is none of that id.
        """
        if not 0 <= count <= _MAX_TIMES:
            raise InvalidArgumentError("count", f"must be from 0 to {_MAX_TIMES}, not {count}")
        after_ms = await self._now_ms() if after is None else to_ms("after", after)
        if isinstance(schedule, Schedule):
            spec = spec_of(schedule)
        else:
            spec = spec_in(await self._verbs.get_schedule(schedule_id=check_id("schedule", schedule)))
        return [from_ms(tick_ms) for tick_ms in islice(spec.ticks_after(max(-1, after_ms)), count)]

    # Within.

    async def _unfitness(self, schedule: Schedule[Any]) -> Unfit | None:
        try:
            wanted = definition_to_store(schedule, self._registry, self._codec)
        except Exception as error:  # noqa: BLE001  # the codec is the user's, and a sweep has other things to do
            logger.debug("schedule %r: %s", schedule.id, one_line(error))
            return "unwritable"
        stored = await self._find(schedule.id)
        if stored is None:
            return "missing"
        return None if definition_in(stored) == wanted else "differs"

    async def _put(self, schedule: Schedule[Any]) -> tuple[Literal["created", "updated", "unchanged"], StoredSchedule]:
        definition = definition_to_store(schedule, self._registry, self._codec)
        stored = await self._find(schedule.id)
        if stored is not None and definition_in(stored) == definition:
            # Hosts that live for one call ask this each time, and may have few queries for it.
            return "unchanged", await self._mended(stored)
        spec, now_ms = spec_of(schedule), await self._now_ms()
        next_fire_at_ms = spec.next_after(now_ms - 1)
        if stored is not None:
            next_fire_at_ms = first_after(spec, now_ms, stored.last_fire_at_ms)
            if stored.spec != definition["spec"]:
                await self._keep_due_tick(stored, now_ms)
        answer = await self._verbs.upsert_schedule(
            **definition,
            next_fire_at_ms=next_fire_at_ms,
            now_ms=now_ms,
            enabled=False if schedule.paused and stored is None else None,
        )
        assert answer.kind != "conflict"  # without an expected revision there is no conflict
        assert answer.schedule is not None
        self._on_change()
        return answer.kind, await self._mended(answer.schedule)

    async def _keep_due_tick(self, stored: StoredSchedule, now_ms: int) -> None:
        """Turn a tick that is due into a requested one: the change of the timing would swallow it."""
        due_ms = stored.next_fire_at_ms
        if not stored.enabled or due_ms is None or due_ms > now_ms:
            return
        try:
            grace_ms = spec_in(stored).grace_ms
        except CorruptRecordError:
            return  # the write below repairs the schedule; whether this tick is late cannot be known
        if now_ms - due_ms <= grace_ms:
            await self._request(stored.schedule_id, [due_ms], now_ms)

    async def _mended(self, stored: StoredSchedule) -> StoredSchedule:
        """Set a schedule going whose next tick has been fired by a worker with a clock a little ahead of ours.

        Such a tick never fires again, and nothing else would move the schedule on.
        """
        next_ms, last_ms = stored.next_fire_at_ms, stored.last_fire_at_ms
        if not stored.enabled or next_ms is None or last_ms is None or next_ms > last_ms:
            return stored
        await self._set_enabled(stored.schedule_id, enabled=False)
        return await self._set_enabled(stored.schedule_id, enabled=True)

    async def _set_enabled(self, schedule_id: str, *, enabled: bool) -> StoredSchedule:
        schedule_id = check_id("schedule_id", schedule_id)
        for _ in range(_CONFLICTS):
            stored = await self._verbs.get_schedule(schedule_id=schedule_id)
            now_ms = await self._now_ms()
            next_fire_at_ms = stored.next_fire_at_ms
            if enabled:
                next_fire_at_ms = first_after(spec_in(stored), now_ms, stored.last_fire_at_ms)
            answer = await self._verbs.upsert_schedule(
                **definition_in(stored),
                next_fire_at_ms=next_fire_at_ms,
                now_ms=now_ms,
                enabled=enabled,
                expected_revision=stored.revision,
            )
            if answer.kind != "conflict" and answer.schedule is not None:
                self._on_change()
                return answer.schedule
        raise ScheduleConflictError(schedule_id)

    async def _ticks_of(self, schedule_id: str, start: datetime, end: datetime) -> Sequence[int]:
        start_ms, end_ms = to_ms("start", start), to_ms("end", end)
        spec = spec_in(await self._verbs.get_schedule(schedule_id=schedule_id))
        ticks = takewhile(lambda tick_ms: tick_ms < end_ms, spec.ticks_after(max(0, start_ms) - 1))
        ticks_ms = list(islice(ticks, _MAX_TIMES + 1))
        if len(ticks_ms) > _MAX_TIMES:
            raise InvalidArgumentError("end", f"the period has more than {_MAX_TIMES} ticks; take it in parts")
        return ticks_ms

    async def _request(
        self,
        schedule_id: str,
        fire_times_ms: Sequence[int],
        now_ms: int,
        overlap: RequestedOverlap | None = None,
    ) -> int:
        answer = await self._verbs.request_schedule_buckets(
            schedule_id=schedule_id, fire_times_ms=fire_times_ms, now_ms=now_ms, overlap=overlap
        )
        if answer.kind == "not-found":
            raise ScheduleNotFoundError(schedule_id)
        return answer.count

    async def _find(self, schedule_id: str) -> StoredSchedule | None:
        try:
            return await self._verbs.get_schedule(schedule_id=schedule_id)
        except ScheduleNotFoundError:
            return None

    def _record(self, stored: StoredSchedule) -> ScheduleRecord:
        return ScheduleRecord(stored, self._codec)


Unfit: TypeAlias = Literal["missing", "differs", "unwritable", "unsupported"]
_REMEDY = "materialize_schedules() writes what is declared here"
_SAID: Mapping[Unfit, str] = {
    "missing": f"not in the store, so it does not fire: {_REMEDY}",
    "differs": f"the store holds another definition, which fires instead: {_REMEDY}",
    "unwritable": "its input cannot be written, so it does not fire as declared: materialize_schedules() says why",
    "unsupported": "this store has no schedules, so it never fires: use a store that has them",
}


def _checked(declared: Sequence[Schedule[Any]], registry: Registry) -> tuple[Schedule[Any], ...]:
    """Refuse what could not be brought into the store later, when the program starts."""
    ids: set[str] = set()
    for schedule in declared:
        if not isinstance(schedule, Schedule):
            raise ConfigurationError(f"{schedule!r} is no Schedule")
        if schedule.id in ids:
            raise ConfigurationError(f"schedule {schedule.id!r} is declared twice")
        registry.current(schedule.workflow)
        ids.add(schedule.id)
    return tuple(declared)
