"""Stores with one fault each in what they leave behind: refusals that write, erasures that spare, or do not spare."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import STATUS_TABLE, InboxEntry, RunStatus
from workflow_store_memory import InMemoryWorkflowStore
from workflow_store_memory.data import Run

_REFUSED = "refusals_of_every_status_change_nothing"
_LATER_LIFE = "refused_deliveries_leave_nothing_for_a_later_life"
_STAYING = "those_that_stay_keep_everything"
_NAMESAKE = "namesake_of_an_erased_run_begins_anew"
_TIMERS = "ended_run_has_no_timers_in_a_later_life"
_DONE = {
    "ok",
    "claimed",
    "delivered",
    "buffered",
    "requested",
    "terminated",
    "requeued",
    "retried",
    "deleted",
    "forked",
}


def _title(text: str) -> str:
    return "".join(part.title() for part in text.replace("-", "_").split("_"))


# Refusals that write.


def _touching(verb: str) -> Callable[..., Any]:
    async def call(self: _Touching, **arguments: Any) -> Any:
        ids = [arguments["run_id"]] if "run_id" in arguments else list(self._data.runs)
        before = {run_id: run.updated_at_ms for run_id, run in self._data.runs.items()}
        try:
            answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        except LeaseLostError:
            self.touch(ids, before)
            raise
        if getattr(answer, "kind", "ok") not in _DONE or "run_id" not in arguments:
            self.touch(ids, before)
        return answer

    return call


class _Touching(Faulty):
    def touch(self, run_ids: list[str], before: dict[str, int]) -> None:
        """Note the time of a call in runs that it did not change."""
        for run_id in run_ids:
            run = self._data.runs.get(run_id)
            if run is not None and run.updated_at_ms == before.get(run_id):
                run.updated_at_ms += 1


for _verb in (verb for verb in STATUS_TABLE if verb != "fork_run"):
    _told = {"__doc__": f"`{_verb}` notes its time in runs that it refuses.", _verb: _touching(_verb)}
    broken("STATUS-1", words="Each verb answers in each status", case=_REFUSED)(
        type(f"{_title(_verb)}NotesItsRefusals", (_Touching,), _told)
    )


def _forgetting(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        before = {run_id: run.updated_at_ms for run_id, run in self._data.runs.items()}
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        for run_id, updated_at_ms in before.items():
            if run_id in self._data.runs:
                self._data.runs[run_id].updated_at_ms = updated_at_ms
        return answer

    return call


_CHANGING = [verb for verb, answers in STATUS_TABLE.items() if _DONE & set(answers.values())]
for _verb in sorted(set(_CHANGING) - {"heartbeat_run_lease", "fork_run", "delete_run"}):
    _told = {"__doc__": f"`{_verb}` does not note its time in runs that it changes.", _verb: _forgetting(_verb)}
    broken(
        "RUN-6",
        words="`updated_at_ms` is the `now_ms` of the last call that changed it",
        case="record_says_when_it_changed_last",
    )(type(f"{_title(_verb)}NotesNoTime", (Faulty,), _told))


def _remembering(verb: str, kind: str, name: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        run = self.run(arguments)
        if run is not None and answer.kind in {"finished", "not-waiting"}:
            delivery_id = arguments.get(name, name)
            entry = InboxEntry(
                inbox_seq=1, kind=kind, name="n", delivery_id=delivery_id, payload=None, received_at_ms=0  # type: ignore[arg-type]
            )  # fmt: skip
            if kind == "approval":
                entry = replace(entry, payload='{"approved":true}')  # type: ignore[arg-type]
            run.deliveries.setdefault((kind, delivery_id), entry)  # type: ignore[arg-type]
        return answer

    return call


for _verb, _kind, _name, _clause, _words in (
    ("cancel_run", "cancel", "cancel", "CANCEL-1", "A terminal run, a `dead` one too, answers `finished`"),
    ("deliver_signal", "signal", "signal_id", "SIGNAL-3", "runs answer `finished`"),
    ("deliver_approval", "approval", "approval_id", "APPROVAL-2", "An approval is decided once"),
    ("deliver_retry", "retry", "retry_id", "RETRY-3", "are as before"),
):
    _told = {"__doc__": f"`{_verb}` remembers what it refused.", _verb: _remembering(_verb, _kind, _name)}
    broken(_clause, words=_words, case=_LATER_LIFE)(type(f"{_title(_verb)}RemembersRefusals", (Faulty,), _told))
    if _verb in {"deliver_signal", "deliver_approval"}:
        _told = {"__doc__": f"`{_verb}` remembers who was told to wait.", _verb: _remembering(_verb, _kind, _name)}
        broken(
            "SIGNAL-5",
            words="nothing is written unless the answer is `delivered`",
            case="not_waiting_leaves_the_ids_free",
        )(type(f"{_title(_verb)}RemembersNotWaiting", (Faulty,), _told))


_make_queued = Run.make_queued


@broken("DEAD-1", words="without error, reason and end", case=_LATER_LIFE)
class LateRequestEndsTheNextLife(Faulty):
    """A request to a dead run answers `finished`, and ends it when it is brought back."""

    async def cancel_run(self, **arguments: Any) -> Any:
        answer = await super().cancel_run(**arguments)
        data_with_mark: Any = self._data
        if answer.kind == "finished":
            data_with_mark.late = {*getattr(self._data, "late", ()), arguments["run_id"]}
        return answer

    async def requeue_run(self, **arguments: Any) -> Any:
        answer = await super().requeue_run(**arguments)
        if arguments["run_id"] in getattr(self._data, "late", ()):
            self.current(arguments["run_id"]).cancel_requested = True
        return answer


# Erasures.


def _lose_log(run: Run) -> None:
    run.events = [replace(event, payload=None) for event in run.events]


def _lose_inbox(run: Run) -> None:
    run.untaken.clear()


def _lose_timers(run: Run) -> None:
    run.timers.clear()


def _lose_known(run: Run) -> None:
    run.deliveries.clear()


_LOSSES = {"log": _lose_log, "inbox": _lose_inbox, "timers": _lose_timers, "known-ids": _lose_known}


def _sparing(verb: str, loss: Callable[[Run], None], matches: Callable[[str, str], bool]) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        before = set(self._data.runs)
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        gone = before - set(self._data.runs)
        for run_id, run in self._data.runs.items():
            if any(matches(run_id, erased) for erased in gone):
                loss(run)
        return answer

    return call


_MATCHES: dict[str, tuple[str, Callable[[str, str], bool]]] = {
    "all": ("all runs", lambda kept, gone: True),
    "prefix": ("runs whose ids begin alike", lambda kept, gone: kept.startswith(gone)),
    "case": ("runs whose ids differ in case", lambda kept, gone: kept.casefold() == gone.casefold()),
}
for _verb, _clause, _words in (
    ("delete_run", "RETAIN-1", "Every trace goes in one unit"),
    ("prune_runs", "RETAIN-3", "at most `limit`"),
):
    for _what, _loss in _LOSSES.items():
        for _which, (_whose, _match) in _MATCHES.items():
            _told = {
                "__doc__": f"`{_verb}` deletes the {_what} of {_whose} too.",
                _verb: _sparing(_verb, _loss, _match),
            }
            broken(_clause, words=_words, case=_STAYING)(
                type(f"{_title(_verb)}Deletes{_title(_what)}Of{_title(_which)}", (Faulty,), _told)
            )


class _Haunted(Faulty):
    """Keeps erased runs, to give parts of them to their namesakes."""

    def inherit(self, former: Run, run: Run) -> None:
        raise NotImplementedError

    def _bury(self, before: dict[str, Run]) -> None:
        data_with_graves: Any = self._data
        graves = getattr(self._data, "graves", {})
        gone = {run_id: run for run_id, run in before.items() if run_id not in self._data.runs}
        data_with_graves.graves = graves | gone

    async def delete_run(self, **arguments: Any) -> Any:
        before = dict(self._data.runs)
        answer = await super().delete_run(**arguments)
        self._bury(before)
        return answer

    async def prune_runs(self, **arguments: Any) -> Any:
        before = dict(self._data.runs)
        count = await super().prune_runs(**arguments)
        self._bury(before)
        return count

    async def create_run(self, **arguments: Any) -> Any:
        answer = await super().create_run(**arguments)
        former = getattr(self._data, "graves", {}).pop(arguments["run_id"], None)
        if former is not None and answer.kind == "created":
            self.inherit(former, self.current(arguments["run_id"]))
        return answer


def _inherit_timers(former: Run, run: Run) -> None:
    run.timers = dict(former.timers)


def _inherit_inbox(former: Run, run: Run) -> None:
    run.inbox, run.untaken = list(former.inbox), dict(former.untaken)


def _inherit_known(kind: str) -> Callable[[Run, Run], None]:
    def inherit(former: Run, run: Run) -> None:
        run.deliveries = {key: entry for key, entry in former.deliveries.items() if key[0] == kind}

    return inherit


def _inherit_request(former: Run, run: Run) -> None:
    run.cancel_requested = former.cancel_requested


def _inherit_log(former: Run, run: Run) -> None:
    run.events = list(former.events)


_LEGACIES: dict[str, tuple[str, Callable[[Run, Run], None]]] = {
    "timers": ("TIMER-3", _inherit_timers),
    "inbox": ("RETAIN-1", _inherit_inbox),
    "log": ("RETAIN-1", _inherit_log),
    "request": ("RETAIN-1", _inherit_request),
    "known-signals": ("SIGNAL-2", _inherit_known("signal")),
    "known-approvals": ("APPROVAL-2", _inherit_known("approval")),
    "known-retries": ("SIGNAL-7", _inherit_known("retry")),
    "known-request": ("CANCEL-1", _inherit_known("cancel")),
}
for _what, (_clause, _legacy) in _LEGACIES.items():
    _told = {
        "__doc__": f"A run under the id of an erased one has its {_what}.",
        "inherit": lambda self, former, run, legacy=_legacy: legacy(former, run),
    }
    broken(_clause, case=_NAMESAKE)(type(f"Inherits{_title(_what)}", (_Haunted,), _told))


_make_ended = Run.make_ended


def _end_and_keep(run: Run, status: Any, now_ms: int) -> None:
    run_with_mark: Any = _KEPT
    run_with_mark[run.run_id] = dict(run.timers)
    _make_ended(run, status, now_ms)


_KEPT: dict[str, Any] = {}


def _queue_with_kept(run: Run, now_ms: int) -> None:
    if run.status.is_terminal:
        run.timers = _KEPT.pop(run.run_id, run.timers)
    _make_queued(run, now_ms)


@broken(
    "CANCEL-4",
    (Run, "make_ended", _end_and_keep),
    (Run, "make_queued", _queue_with_kept),
    words="its timers are gone",
    case=_TIMERS,
)
class TimersComeBackWithTheRun(Faulty):
    """The timers of an ended run are not shown, and are there again when it is brought back."""


class _DueErased(_Haunted):
    def inherit(self, former: Run, run: Run) -> None:
        """Inherit nothing: the erased runs only count as due."""


def _next_due_of_graves(verb: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        graves = getattr(self._data, "graves", {}).values()
        due = [run.claimable_at_ms for run in graves if run.claimable_at_ms is not None]
        known = [] if answer.next_due_ms is None else [answer.next_due_ms]
        return replace(answer, next_due_ms=min([*due, *known], default=None))

    return call


for _verb in ("claim_pending_runs", "claim_stale_runs", "claim_due_timers"):
    _told = {"__doc__": f"`{_verb}` answers that an erased run is due.", _verb: _next_due_of_graves(_verb)}
    broken("CLAIM-7", words="the next matching run", case="erased_runs_are_due_for_nobody")(
        type(f"{_title(_verb)}TellsOfErasedRuns", (_DueErased,), _told)
    )


# Arguments that are left out.


_LEFT_OUT = "has the value that the verb's signature here gives it"


@broken("ARG-4", words=_LEFT_OUT, case="timeline_has_a_thousand_events_unless_asked")
class TimelinesAreShortUnlessAsked(Faulty):
    """A timeline without a limit has a hundred events."""

    async def get_run_timeline(self, *, run_id: str, limit: int = 100) -> Any:
        return await super().get_run_timeline(run_id=run_id, limit=limit)


@broken("ARG-4", words=_LEFT_OUT, case="new_schedule_of_which_little_is_said")
class SchedulesOverlapUnlessAsked(Faulty):
    """A schedule of whose overlap nothing is said starts each tick."""

    async def upsert_schedule(self, **arguments: Any) -> Any:
        return await super().upsert_schedule(**({"overlap_policy": "allow"} | arguments))


@broken(
    "FORK-1", words="is `queued`, due now, with the other's workflow", case="fork_begins_with_the_first_part_of_the_log"
)
class ForksLookOld(Faulty):
    """A fork says that it changed when the other run last did."""

    async def fork_run(self, **arguments: Any) -> Any:
        answer = await super().fork_run(**arguments)
        if answer.kind == "forked":
            run = self.current(arguments["new_run_id"])
            run.updated_at_ms = self.current(arguments["run_id"]).updated_at_ms
        return answer


# Runs of one id, one after the other, that no call of `create_run` made.


def _with_first_tokens(verb: str, name: str) -> Callable[..., Any]:
    async def call(self: Faulty, **arguments: Any) -> Any:
        answer = await getattr(InMemoryWorkflowStore, verb)(self, **arguments)
        if (run := self._data.runs.get(arguments.get(name) or "")) is not None and run.lease_number == 0:
            run.generation = verb
        return answer

    return call


for _verb, _name, _case in (
    ("fork_run", "new_run_id", "token_of_a_deleted_fork_does_not_fit_its_namesake"),
    ("mark_schedule_bucket_started", "run_id", "token_of_a_deleted_ticks_run_does_not_fit_its_namesake"),
):
    _told = {
        "__doc__": f"The first token of each run that `{_verb}` makes is the same.",
        _verb: _with_first_tokens(_verb, _name),
    }
    broken("FENCE-3", words="also after the run was deleted and created again", case=_case)(
        type(f"{_title(_verb)}GivesFirstTokensAgain", (Faulty,), _told)
    )


@broken("OP-1", words="gives the first answer again", case="repeated_append_without_events_changes_nothing")
class RepeatOfAPlainAppendIsAnother(Faulty):
    """The repeat of an append that writes nothing but the lease renews it once more."""

    async def append_events(self, **arguments: Any) -> Any:
        written = any(arguments.get(name) for name in ("events", "taken_inbox", "set_timers", "removed_timers"))
        if not written:
            arguments["operation_id"] += f"-{arguments['now_ms']}"
        return await super().append_events(**arguments)


@broken("OP-1", words="gives the first answer again", case="repeated_pause_that_found_news_says_so_again")
class PausesThatFoundNewsAreForgotten(Faulty):
    """A pause that ended as `queued` is no operation that a repeat could have."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        answer = await super().mark_run_paused(**arguments)
        if answer.status == RunStatus.QUEUED:
            self.current(arguments["run_id"]).operation_id = "another"
        return answer


@broken("RETAIN-2", words="A run under a live lease answers `not-deletable`", case="live_lease_protects")
class RefusedDeletionHidesTheRun(Faulty):
    """A run whose deletion was refused is in no listing any more."""

    async def delete_run(self, **arguments: Any) -> Any:
        answer = await super().delete_run(**arguments)
        if answer.kind == "not-deletable":
            self._data.__dict__.setdefault("hidden", set()).add(arguments["run_id"])
        return answer

    async def list_runs(self, **arguments: Any) -> Any:
        page = await super().list_runs(**arguments)
        hidden = self._data.__dict__.get("hidden", set())
        return replace(page, runs=tuple(run for run in page.runs if run.run_id not in hidden))


@broken("RETAIN-1", words="Every trace goes in one unit", case="pruning_and_calls_at_once")
class PruningLeavesWhatComesMeanwhile(Faulty):
    """A delivery between the choice of the runs to prune and their end stays for their namesakes."""

    async def prune_runs(self, **arguments: Any) -> int:
        before = {run_id: len(run.deliveries) for run_id, run in self._data.runs.items()}
        await asyncio.sleep(0.002)
        late = {
            run_id: tuple(run.untaken.values())
            for run_id, run in self._data.runs.items()
            if len(run.deliveries) > before.get(run_id, 0)
        }
        count = await super().prune_runs(**arguments)
        vars(self._data)["left"] = {run_id: left for run_id, left in late.items() if run_id not in self._data.runs}
        return count

    async def read_inbox(self, **arguments: Any) -> Any:
        left = vars(self._data).get("left", {}).get(arguments["run_id"], ())
        return (*left, *await super().read_inbox(**arguments))


@broken("RETAIN-3", words="only runs that are in a named status at that very moment", case="pruning_and_calls_at_once")
class PruningTakesWhatLivesAgain(Faulty):
    """A run that is requeued or retried between the choice of the runs to prune and their end is deleted alive."""

    async def prune_runs(self, **arguments: Any) -> int:
        statuses, before = arguments.get("statuses") or (), arguments["finished_before_ms"]
        runs = self._data.runs
        chosen = [
            run_id
            for run_id, run in runs.items()
            if run.status in statuses and run.finished_at_ms is not None and run.finished_at_ms < before
        ]
        await asyncio.sleep(0.002)
        return sum(runs.pop(run_id, None) is not None for run_id in chosen)
