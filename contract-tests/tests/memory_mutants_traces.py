"""Stores with one fault each in what outlives their handles, and what another look at the tables leaves alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import MEMORY_MUTANTS, NOT_APPLICABLE, Mutant, broken
from workflow_contract_tests import StoreHarness
from workflow_runtime.store import RunStatus, StoreCapabilities
from workflow_store_memory import InMemoryData

_CLOSED = "everything_is_there_when_all_handles_were_closed"
_ENSURED = "ensuring_the_schema_again_changes_nothing"
_CLOSED_ON_SCHEDULES = "schedules_are_there_when_all_handles_were_closed"
_ENSURED_ON_SCHEDULES = "ensuring_the_schema_again_keeps_schedules"
_OF_SCHEDULES = ("schedules", "requested", "claimed-ticks", "settlements")


class Durable(Faulty):
    """A memory store that declares itself durable, and counts its handles."""

    def __init__(self, *, data: InMemoryData | None = None) -> None:
        super().__init__(data=data)
        self._capabilities = StoreCapabilities(max_payload_bytes=2_000_000, durable=True)
        data_with_count: Any = self._data
        data_with_count.handles = getattr(self._data, "handles", 0) + 1

    async def close(self) -> None:
        data_with_count: Any = self._data
        data_with_count.handles -= 1
        if data_with_count.handles == 0:
            self.lose(self._data)

    def lose(self, data: InMemoryData) -> None:
        """Lose what only the open handles knew."""


def _lose_everything(data: InMemoryData) -> None:
    data.runs.clear()
    data.schedules.clear()


def _lose_schedules(data: InMemoryData) -> None:
    data.schedules.clear()


def _lose_operations(data: InMemoryData) -> None:
    for run in data.runs.values():
        run.operation_id = None


def _lose_delivered_ids(data: InMemoryData) -> None:
    for run in data.runs.values():
        run.deliveries.clear()


def _lose_timers(data: InMemoryData) -> None:
    for run in data.runs.values():
        run.timers.clear()


def _lose_awaited(data: InMemoryData) -> None:
    for run in data.runs.values():
        run.awaited = ()


def _lose_taken(data: InMemoryData) -> None:
    for run in data.runs.values():
        run.untaken = {entry.inbox_seq: entry for entry in run.inbox}


def _lose_leases(data: InMemoryData) -> None:
    for run in data.runs.values():
        if run.lease is not None:
            run.lease = replace(run.lease, token=f"{run.lease.token}-again")


def _lose_claims(data: InMemoryData) -> None:
    for run in data.runs.values():
        if run.status is RunStatus.RUNNING:
            run.make_queued(run.updated_at_ms)


def _lose_requested(data: InMemoryData) -> None:
    for row in data.schedules.values():
        row.requested.clear()


def _lose_claimed_ticks(data: InMemoryData) -> None:
    for row in data.schedules.values():
        row.end_lease()


def _lose_settlements(data: InMemoryData) -> None:
    for row in data.schedules.values():
        row.settled = None


_LOSSES: dict[str, tuple[str, Callable[[InMemoryData], None]]] = {
    "everything": ("everything", _lose_everything),
    "schedules": ("the schedules", _lose_schedules),
    "operations": ("the last operation of each run", _lose_operations),
    "delivered-ids": ("which ids were delivered", _lose_delivered_ids),
    "timers": ("the timers", _lose_timers),
    "awaited": ("what paused runs wait for", _lose_awaited),
    "taken": ("which inbox entries were taken", _lose_taken),
    "tokens": ("the tokens of the leases", _lose_leases),
    "claims": ("who has which run", _lose_claims),
    "requested": ("the requested ticks", _lose_requested),
    "claimed-ticks": ("the claimed ticks", _lose_claimed_ticks),
    "settlements": ("the last settlement of each schedule", _lose_settlements),
}


def _register(what: str, words: str, loss: Callable[[InMemoryData], None]) -> None:
    title = "".join(part.title() for part in what.split("-"))

    def lose(self: Durable, data: InMemoryData) -> None:
        loss(data)

    async def ensure_schema(self: Faulty) -> None:
        # The first call of a case makes the tables of a fresh store.
        if getattr(self._data, "made", False):
            loss(self._data)
        data_with_mark: Any = self._data
        data_with_mark.made = True

    ticks = what in _OF_SCHEDULES
    closed, ensured = (_CLOSED_ON_SCHEDULES, _ENSURED_ON_SCHEDULES) if ticks else (_CLOSED, _ENSURED)
    told = {"__doc__": f"When the last handle is closed, {words} are forgotten.", "lose": lose}
    broken("DURABLE-1", words="when its last handle is closed", case=closed)(type(f"Closing{title}", (Durable,), told))
    told = {"__doc__": f"Ensuring the schema again forgets {words}.", "ensure_schema": ensure_schema}
    broken("SCHEMA-1", words="May be called again", case=ensured)(type(f"Ensuring{title}", (Faulty,), told))


for _what, (_words, _loss) in _LOSSES.items():
    _register(_what, _words, _loss)


def open_alone() -> Durable:
    """Open the store of a child process: its data are its own."""
    return Durable(data=InMemoryData())


def _lonely_harness() -> StoreHarness:
    data = InMemoryData()
    return StoreHarness(
        lambda: Durable(data=data),
        contract_version="0.1",
        process_factory=f"{__name__}:open_alone",
        not_applicable={"corrupt": NOT_APPLICABLE["corrupt"]},
    )


MEMORY_MUTANTS.append(
    Mutant(
        name="durable-in-one-process",
        clause="DURABLE-1",
        story="Another process finds nothing.",
        harness=_lonely_harness,
        words="in this process and in others",
        case="other_processes_find_everything",
    )
)
