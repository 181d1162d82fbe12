"""Stores with one fault each in what comes from outside: timers, inbox, listings, payloads, arguments."""

from __future__ import annotations

import base64
import fnmatch
import json
from contextlib import suppress
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import InvalidArgumentError, LeaseLostError, SchemaMissingError
from workflow_runtime.store import (
    AlreadyDecided,
    AlreadyFinished,
    Buffered,
    InboxEntry,
    NotWaiting,
    RunPage,
    RunStatus,
    approval_payload,
)
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory.data import Run


@broken("TIMER-1")
class TimerIsNotDurable(Faulty):
    """`schedule_timer` answers and writes nothing when the run has timers already."""

    async def schedule_timer(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is None or not run.timers:
            await super().schedule_timer(**arguments)


@broken("TIMER-2")
class TimersComeOneByOne(Faulty):
    """A claim brings the first due timer only."""

    async def claim_due_timers(self, **arguments: Any) -> Any:
        batch = await super().claim_due_timers(**arguments)
        return replace(batch, claims=tuple(replace(claim, due_timers=claim.due_timers[:1]) for claim in batch.claims))


@broken("TIMER-3")
class TimersAreLostAfterTheClaim(Faulty):
    """A claim deletes the timers that it brings."""

    async def claim_due_timers(self, **arguments: Any) -> Any:
        batch = await super().claim_due_timers(**arguments)
        for claim in batch.claims:
            for timer in claim.due_timers:
                del self.current(claim.run.run_id).timers[timer.timer_id]
        return batch


@broken("SIGNAL-1")
class AnySignalWakes(Faulty):
    """A paused run is woken by a signal that it does not wait for."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        answer = await super().deliver_signal(**arguments)
        if isinstance(answer, Buffered) and self.current(arguments["run_id"]).status is RunStatus.PAUSED:
            self.current(arguments["run_id"]).make_queued(arguments["now_ms"])
        return answer


@broken("SIGNAL-2")
class EndComesBeforeDuplicate(Faulty):
    """A signal repeated after the run's end is told that it came too late, though it was taken."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and run.status is RunStatus.FINISHED:
            return AlreadyFinished(status=run.status)
        return await super().deliver_signal(**arguments)


@broken("SIGNAL-2")
class TakenSignalIsForgotten(Faulty):
    """Only what still lies in the inbox is known: a taken signal comes again."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None:
            waiting = {("signal", entry.delivery_id) for entry in run.untaken.values()}
            run.deliveries = {key: entry for key, entry in run.deliveries.items() if key in waiting}
        return await super().deliver_signal(**arguments)


@broken("SIGNAL-3")
class EndedRunTakesSignals(Faulty):
    """A signal for a finished run is acknowledged, and never read."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        answer = await super().deliver_signal(**arguments)
        return Buffered(inbox_seq=1) if isinstance(answer, AlreadyFinished) else answer


_receive = Run.receive


def _receive_renumbered(run: Run, **arguments: Any) -> InboxEntry:
    entry = _receive(run, **arguments)
    renumbered = replace(entry, inbox_seq=len(run.untaken))
    run.untaken.pop(entry.inbox_seq)
    run.untaken[renumbered.inbox_seq] = renumbered
    return renumbered


@broken("SIGNAL-4", (Run, "receive", _receive_renumbered))
class InboxNumbersComeBack(Faulty):
    """Inbox numbers count what is in the inbox, so that they are given again after entries were taken."""


@broken("SIGNAL-5")
class RefusedSignalIsKept(Faulty):
    """`not-waiting` is answered, and the signal is written all the same."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        answer = await super().deliver_signal(**arguments)
        if isinstance(answer, NotWaiting):
            await super().deliver_signal(**(arguments | {"only_if_waiting": False}))
        return answer


@broken("SIGNAL-6")
class InboxIsReadInclusively(Faulty):
    """`after_seq` brings the entry of that number again."""

    async def read_inbox(self, **arguments: Any) -> Any:
        after = max(0, arguments.get("after_seq", 0) - 1)
        return await super().read_inbox(**(arguments | {"after_seq": after}))


@broken("APPROVAL-1")
class DecisionLosesItsAuthor(Faulty):
    """Who decided is not recorded."""

    async def deliver_approval(self, **arguments: Any) -> Any:
        return await super().deliver_approval(**(arguments | {"decided_by": None}))


@broken("APPROVAL-2")
class ApprovalIsDecidedTwice(Faulty):
    """The last decision wins."""

    async def deliver_approval(self, **arguments: Any) -> Any:
        answer = await super().deliver_approval(**arguments)
        if not isinstance(answer, AlreadyDecided):
            return answer
        run, key = self.current(arguments["run_id"]), ("approval", arguments["approval_id"])
        payload = approval_payload(approved=arguments["approved"], decided_by=None, comment=None)
        entry = replace(run.deliveries[key], payload=payload)  # type: ignore[index]  # the key is of the right kind
        run.deliveries[key] = run.untaken[entry.inbox_seq] = entry  # type: ignore[index]  # as above
        return Buffered(inbox_seq=entry.inbox_seq)


@broken("LIST-1")
class ListingIsById(Faulty):
    """Runs are listed by id alone."""

    async def list_runs(self, **arguments: Any) -> Any:
        page = await super().list_runs(**arguments)
        return replace(page, runs=tuple(sorted(page.runs, key=lambda run: run.run_id)))


@broken("LIST-2")
class ListingIsPagedByOffset(Faulty):
    """A cursor counts the runs that were shown."""

    async def list_runs(self, *, limit: int, cursor: str | None = None, **filters: Any) -> Any:
        page = await super().list_runs(limit=10**6, **filters)
        begin = int(cursor or 0)
        more = len(page.runs) > begin + limit
        return RunPage(runs=page.runs[begin : begin + limit], next_cursor=str(begin + limit) if more else None)


@broken("LIST-3")
class PrefixIsAPattern(Faulty):
    """A prefix is matched as a pattern."""

    async def list_runs(self, **arguments: Any) -> Any:
        pattern = arguments.pop("run_id_prefix", None) or ""
        page = await super().list_runs(**arguments)
        return replace(page, runs=tuple(run for run in page.runs if fnmatch.fnmatch(run.run_id, f"{pattern}*")))


@broken("LIST-3")
class CursorIsParsedAsItComes(Faulty):
    """A cursor is decoded before anybody has looked at it."""

    async def list_runs(self, **arguments: Any) -> Any:
        if isinstance(cursor := arguments.get("cursor"), str):
            with suppress(ValueError):
                json.loads(base64.b64decode(cursor))
        return await super().list_runs(**arguments)


@broken("LIST-3")
class CursorThatIsNoneBeginsAnew(Faulty):
    """A cursor of schedules that cannot be read stands for the first page."""

    async def list_schedules(self, **arguments: Any) -> Any:
        try:
            return await super().list_schedules(**arguments)
        except InvalidArgumentError:
            return await super().list_schedules(**(arguments | {"cursor": None}))


@broken("LIST-4")
class CountsIgnoreAFilter(Faulty):
    """`count_runs` does not look at queues."""

    async def count_runs(self, **arguments: Any) -> Any:
        return await super().count_runs(**(arguments | {"queues": None}))


@broken("LIST-6")
class FormerWaitIsShown(Faulty):
    """What a run waited for before it was woken is still shown."""

    async def list_runs(self, **arguments: Any) -> Any:
        page = await super().list_runs(**arguments)
        runs = (
            replace(run, first_awaited=(kept := self._data.runs[run.run_id].awaited)[:3], awaited_count=len(kept))
            for run in page.runs
        )
        return replace(page, runs=tuple(runs))


@broken("LIST-6", words="how many there are", case="listing_says_what_a_paused_run_waits_for")
class ShortListIsCountedAsShown(Faulty):
    """Of a list that takes little room only those things are counted that are shown."""

    async def list_runs(self, **arguments: Any) -> Any:
        page = await super().list_runs(**arguments)
        runs = (
            run
            if sum(len(one.step_id) for one in run.first_awaited) > 99
            else replace(run, awaited_count=len(run.first_awaited))
            for run in page.runs
        )
        return replace(page, runs=tuple(runs))


@broken("LIST-5")
class TimelineForgetsTheInbox(Faulty):
    """A timeline shows nothing of what came from outside."""

    async def get_run_timeline(self, **arguments: Any) -> Any:
        timeline = await super().get_run_timeline(**arguments)
        return replace(timeline, entries=tuple(entry for entry in timeline.entries if entry.source != "inbox"))


@broken("LIST-5", words="the first ones", case="timeline_is_bounded")
class TimelineHasTheNewestOfTheInbox(Faulty):
    """A timeline that cannot show all of an inbox shows what came last."""

    async def get_run_timeline(self, **arguments: Any) -> Any:
        timeline = await super().get_run_timeline(**arguments)
        whole = await super().get_run_timeline(**(arguments | {"limit": 10**6}))
        newest = [entry for entry in whole.entries if entry.source == "inbox"][-arguments.get("limit", 1_000) :]
        others = [entry for entry in timeline.entries if entry.source != "inbox"]
        return replace(timeline, entries=tuple(sorted([*others, *newest], key=lambda entry: entry.at_ms)))


@broken("PAYLOAD-1")
class PayloadIsParsedAndWrittenAgain(Faulty):
    """The store keeps values, and writes them as text of its own."""

    async def create_run(self, **arguments: Any) -> Any:
        value = json.loads(arguments["input"])
        arguments["input"] = json.dumps(value, sort_keys=True, separators=(",", ":"))
        return await super().create_run(**arguments)


@broken("PAYLOAD-2")
class NullIsAbsent(Faulty):
    """A signal with the payload `null` comes back without a payload."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        absent = arguments["payload"] == "null"
        return await super().deliver_signal(**(arguments | ({"payload": None} if absent else {})))


@broken("PAYLOAD-3")
class LimitIsNotEnforced(Faulty):
    """Outputs of any size are taken."""

    async def mark_run_finished(self, **arguments: Any) -> Any:
        # The plain body of the verb, without the checks of its arguments.
        return await InMemoryWorkflowStore.mark_run_finished.__wrapped__(self, **arguments)  # type: ignore[attr-defined]  # functools.wraps sets it


@broken("PAYLOAD-4")
class HistoryIsShared(Faulty):
    """`load_execution` hands out the store's own list of events."""

    async def load_execution(self, **arguments: Any) -> Any:
        execution = await super().load_execution(**arguments)
        shared: Any = None if execution is None else self.current(arguments["run_id"]).events
        return execution and replace(execution, history=shared)


@broken("PAYLOAD-5")
class AnyTextIsTakenForJson(Faulty):
    """Signals carry whatever text comes, as on a database that does not parse it."""

    async def deliver_signal(self, **arguments: Any) -> Any:
        # The plain body of the verb, without the checks of its arguments.
        return await InMemoryWorkflowStore.deliver_signal.__wrapped__(self, **arguments)  # type: ignore[attr-defined]  # functools.wraps sets it


@broken("ARG-1")
class IdsAreNotChecked(Faulty):
    """`load_run` looks for anything."""

    async def load_run(self, **arguments: Any) -> Any:
        known = isinstance(arguments["run_id"], str) and arguments["run_id"] in self._data.runs
        return await super().load_run(**arguments) if known else None


@broken("ARG-2")
class ZeroMeansAll(Faulty):
    """A limit of 0 is taken for no limit."""

    async def claim_pending_runs(self, **arguments: Any) -> Any:
        return await super().claim_pending_runs(**(arguments | {"limit": arguments["limit"] or 10**6}))


@broken("ARG-3")
class TimesMayBeFractions(Faulty):
    """A lease of half a millisecond is granted."""

    async def claim_run(self, **arguments: Any) -> Any:
        if isinstance(arguments["lease_ms"], float):
            arguments["lease_ms"] = 1
        return await super().claim_run(**arguments)


@broken("ARG-3")
class LeasesEndBeyondTime(Faulty):
    """The end of a lease is no time to anybody."""

    async def claim_run(self, **arguments: Any) -> Any:
        last = arguments["now_ms"] + arguments["lease_ms"]
        if last > 2**53 - 1:
            arguments["lease_ms"] = 1
            arguments["now_ms"] = min(arguments["now_ms"], 2**53 - 2)
        return await super().claim_run(**arguments)


@broken("TIME-1")
class StoreHasAClockOfItsOwn(Faulty):
    """Sweeps compare leases with the store's clock."""

    async def claim_stale_runs(self, **arguments: Any) -> Any:
        return await super().claim_stale_runs(**(arguments | {"now_ms": await self.read_clock()}))


@broken("TIME-2")
class ClockIsInSeconds(Faulty):
    """`read_clock` gives seconds."""

    async def read_clock(self) -> int:
        return await super().read_clock() // 1_000


@broken("SCHEMA-1")
class SchemaIsMadeAnew(Faulty):
    """Ensuring the schema again begins with empty tables."""

    async def ensure_schema(self) -> None:
        self._data.runs.clear()


@broken("SCHEMA-2")
class SchemaIsNeverRight(Faulty):
    """The check does not know its own tables."""

    async def check_schema(self) -> None:
        raise SchemaMissingError("call ensure_schema()")


@broken("ERROR-1")
class DatabaseErrorEscapes(Faulty):
    """A closed handle raises what its database library raises."""

    closed = False

    async def close(self) -> None:
        self.closed = True

    async def read_clock(self) -> int:
        if self.closed:
            raise ConnectionError("no connection")
        return await super().read_clock()


@broken("FENCE-1")
class ReleasedTokenStillRenews(Faulty):
    """A heartbeat revives the lease of a run that was released."""

    async def heartbeat_run_lease(self, **arguments: Any) -> Any:
        try:
            return await super().heartbeat_run_lease(**arguments)
        except LeaseLostError:
            run = self.run(arguments)
            if run is None or run.status is not RunStatus.QUEUED:
                raise
            lease = run.begin_lease(owner="revived", expires_at_ms=arguments["now_ms"] + 1, now_ms=arguments["now_ms"])
            return await super().heartbeat_run_lease(**(arguments | {"lease_token": lease.token}))
