"""Runs created, and signals delivered, any number of them by one statement."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain

from workflow_runtime.store import (
    Buffered,
    CreateManyResult,
    Delivered,
    DeliverSignalResult,
    RunToCreate,
    SignalToDeliver,
    StoreUnavailableError,
    checked,
)
from workflow_store_sql import Creations, Deliveries, answer_signal, creation_values

from .notices import PendingNotice
from .signals import Signals
from .statement_sender import MAX_TRIES, Row, wait_a_little

__all__ = ["Many"]

_TRIES_TOGETHER = 3
"""Number of times that signals are sent together, with pauses. Those that were left out each time are sent alone."""


class Many(Signals):
    """The part of the role `BulkStore` that brings something to each run."""

    @checked
    async def create_runs(self, *, runs: Sequence[RunToCreate], now_ms: int) -> tuple[CreateManyResult, ...]:
        creations = Creations(runs)
        left = creations.firsts()
        with self._notice() as notice:
            for tries in range(1, MAX_TRIES + 1):
                if not left:
                    return creations.answers()
                taken = await self._create_together(left, now_ms)
                notice.wakes = notice.wakes or len(taken) < len(left)
                # One that is not there now was deleted after all.
                left = creations.firsts(await self._find(creations, taken))
                if left:
                    await wait_a_little(tries)
            raise StoreUnavailableError(f"too many others create and delete runs such as {left[0].run_id!r}")

    async def _create_together(self, runs: Sequence[RunToCreate], now_ms: int) -> list[str]:
        """Create runs, and return the ids that were taken."""
        rows = await self._sender.rows("create_runs", *_columns(creation_values(run, now_ms) for run in runs), now_ms)
        return [row["run_id"] for row in rows]

    async def _find(self, creations: Creations, run_ids: Sequence[str]) -> set[str]:
        """Note what is stored of runs, and return the ids of those that are not there."""
        if not run_ids:
            return set()
        asked = creations.firsts(run_ids)
        rows = await self._sender.rows("read_creations", [run.run_id for run in asked], [run.input for run in asked])
        creations.note_stored(rows)
        return set(run_ids) - {row["run_id"] for row in rows}

    @checked
    async def deliver_signals(
        self, *, signals: Sequence[SignalToDeliver], now_ms: int
    ) -> tuple[DeliverSignalResult, ...]:
        deliveries = Deliveries(signals)
        answers: dict[int, DeliverSignalResult] = {}
        with self._notice() as notice:
            for tries in range(1, _TRIES_TOGETHER + 1):
                left = [place for place in range(len(deliveries.firsts)) if place not in answers]
                if not left:
                    break
                if tries > 1:
                    await wait_a_little(tries)
                answers |= await self._deliver_together(deliveries.firsts, left, now_ms, notice)
        for place, signal in enumerate(deliveries.firsts):
            if place not in answers:  # it may have to wait for whoever has locked the head; the others do not
                row = await self._deliver(
                    signal.run_id, "signal", signal.name, signal.signal_id, False, now_ms, signal.payload
                )
                answers[place] = answer_signal(self._read, signal.run_id, row)
        return deliveries.answers([answers[place] for place in range(len(deliveries.firsts))])

    async def _deliver_together(
        self, signals: Sequence[SignalToDeliver], places: Sequence[int], now_ms: int, notice: PendingNotice
    ) -> dict[int, DeliverSignalResult]:
        """Deliver the signals of some places, and return the answers of those whose heads were free."""
        sent = [signals[place] for place in places]
        values = ((signal.run_id, signal.signal_id, signal.name, signal.payload, now_ms, False) for signal in sent)
        rows = await self._sender.rows("deliver_signals", *_columns(values))
        notice.wakes = notice.wakes or any(row["wakes"] for row in rows)
        answers = chain.from_iterable(self._delivered(sent, row) for row in rows)
        return {places[number - 1]: answer for number, answer in answers}

    def _delivered(self, sent: Sequence[SignalToDeliver], row: Row) -> Iterator[tuple[int, DeliverSignalResult]]:
        """Read a row: the answers of its signals, by their numbers."""
        numbers = list(map(int, row["numbers"].split(",")))
        if row["inbox_seq"] is None:
            run_id = sent[numbers[0] - 1].run_id
            yield numbers[0], answer_signal(self._read, run_id, None if row["status"] is None else row)
            return
        first_seq = row["inbox_seq"] - len(numbers)
        for place, number in enumerate(numbers, 1):
            kind = Delivered if place == row["awaited_place"] else Buffered
            yield number, kind(inbox_seq=first_seq + place)

    @contextmanager
    def _notice(self) -> Iterator[PendingNotice]:
        """Notify the workers once if there is work."""
        pending = PendingNotice(by_statement=False)
        try:
            yield pending
        except (StoreUnavailableError, asyncio.CancelledError):
            pending.wakes = True  # it may have been committed all the same
            raise
        finally:
            if pending.wakes:
                self._notices.notify_of_anything()


def _columns(rows: Iterator[tuple[str | int | None, ...]]) -> list[list[str | None]]:
    """Turn rows into columns of texts: each new connection would have to look up the type of a list of numbers."""
    return [[None if value is None else str(value) for value in column] for column in zip(*rows, strict=True)]
