"""Writes of many runs, gathered while others are under way, and sent as one statement."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from typing import TypeAlias

import asyncpg
from workflow_runtime.store import NewEvent, StoreError, StoreUnavailableError
from workflow_store_sql import Fence

from .connections import MOMENT_S
from .fenced_write import FencedWrite, Outcome, event_values
from .lent_connection import Row
from .statement_sender import StatementSender

__all__ = ["Combined", "CombinedWrites", "Unit"]

ALONE = 4
"""Number of writes of a kind that are sent alone, side by side; only what comes beside them gathers. The statement for
many takes longer than theirs, which shows where it has few runs."""
IN_FLIGHT = 2
"""While so many statements for many are under way, others wait: they go together as soon as one is answered."""
MAX_UNITS = 200
"""The most runs that one statement writes to."""
MAX_BYTES = 4_000_000
"""The most bytes of payloads in one statement, unless a single unit has more."""

Value: TypeAlias = "str | None"


@dataclass(slots=True, eq=False, kw_only=True)
class Unit:
    """One write of a driver: its fence, its events, and who waits for the answer. It takes nothing from the inbox."""

    fence: Fence
    events: Sequence[NewEvent]
    values: tuple[str | int | None, ...]
    """The rest of the statement's parameters, in their order."""
    answer: asyncio.Future[Row | None] = field(init=False)
    sent: asyncio.Task[None] | None = None
    """Task that sends it, once it is on its way."""

    @property
    def size(self) -> int:
        """Number of bytes of the payloads, about."""
        texts = (value for value in self.values if isinstance(value, str))
        return sum(len(event.payload or "") for event in self.events) + sum(map(len, texts))


@dataclass(frozen=True, slots=True)
class Statements:
    """The statement that does a write for one run, and the one that does it for many."""

    one: str
    many: str
    width: int
    """Number of parameters that the one for many has for each run, without its events."""
    one_takes_inbox: bool

    def one_values(self, unit: Unit) -> tuple[object, ...]:
        """Write a unit as the parameters of the statement for one, but for the fence."""
        events = event_values(unit.events, ())
        return (*(events if self.one_takes_inbox else events[:3]), *unit.values)

    def many_values(self, units: Sequence[Unit]) -> tuple[list[Value], ...]:
        """Write units as the parameters of the statement for many.

        Numbers go as text: each new connection would have to look up the type of a list of them.
        """
        events = [values for number, unit in enumerate(units, 1) for values in _event_values(number, unit)]
        return (*_columns(map(_unit_values, units), self.width), *_columns(events, 5))


APPEND = Statements("append_plain", "append_events_to_many", width=7, one_takes_inbox=False)
END = Statements("mark_run_ended", "mark_runs_ended", width=10, one_takes_inbox=True)


class Combined:
    """The kinds of writes that may share statements.

    Args:
        sender: Where statements go.
        combine: Whether they do.
    """

    def __init__(self, sender: StatementSender, *, combine: bool) -> None:
        self.appends: CombinedWrites = CombinedWrites(sender, APPEND, combine=combine)
        self.ends: CombinedWrites = CombinedWrites(sender, END, combine=combine)


class CombinedWrites:
    """The writes of one kind that a process makes for different runs.

    A few at once are sent alone, and nothing waits. Those that come beside them gather, and go as one: at the end of
    this turn of the event loop, or when an answer makes room. Each has its own fence in that statement. One that the
    statement leaves out (its fence does not hold, or somebody has locked its head) is then sent alone, which tells why.

    Args:
        sender: Where statements go.
        statements: What does the write.
        combine: False sends each unit alone, and at once.
    """

    def __init__(self, sender: StatementSender, statements: Statements, *, combine: bool) -> None:
        self.always: bool = False
        """True sends each unit by the statement for many, as if something were under way; for tests."""
        self._sender = sender
        self._statements = statements
        self._combine = combine
        self._waiting: deque[Unit] = deque()
        self._alone = 0
        """Number of units that are under way alone."""
        self._under_way = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._gathers = False
        """True if what waits is sent at the end of this turn of the event loop."""

    async def commit(self, write: FencedWrite, unit: Unit) -> Outcome:
        """Write, together with others where there are some.

        Args:
            write: The write as one that is sent alone.
            unit: The same, for the way together.

        Raises:
            LeaseLostError: The token is not the current one, or the run is not running.
            LogConflictError: The log is not as long as the driver believed.
            StoreError: The database could not do it, or did not answer. As with any write, it may be done all the same.
        """
        values = self._statements.one_values(unit)
        if not self._combine:
            return await write.commit(self._statements.one, *values)
        if self._idle:
            with self._counted():
                return await write.commit(self._statements.one, *values)
        row = await self._together(unit)
        if row is not None:
            return Outcome(row, None)
        # It may have to wait for somebody who has locked its head. Others do not wait with it.
        return await write.commit(self._statements.one, *values)

    @property
    def _idle(self) -> bool:
        return self._alone < ALONE and not self._waiting and not self.always

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """Count a unit that is sent alone. It takes no place of the statements for many: it may wait for a lock."""
        self._alone += 1
        try:
            yield
        finally:
            self._alone -= 1

    async def _together(self, unit: Unit) -> Row | None:
        """Return what the head is now; `None` if the unit has to be sent alone."""
        self._sender.check_open()
        loop = asyncio.get_running_loop()
        unit.answer = loop.create_future()
        self._waiting.append(unit)
        if not self._gathers:
            # What else this turn of the loop brings goes along.
            self._gathers = True
            loop.call_soon(self._send_gathered)
        try:
            return await unit.answer
        except asyncio.CancelledError:
            if unit.sent is not None:  # where the server is well, nothing of the caller's goes on afterwards
                await asyncio.wait([unit.sent], timeout=MOMENT_S)
            raise

    def _send_gathered(self) -> None:
        self._gathers = False
        self._send_what_waits()

    def _send_what_waits(self) -> None:
        while self._under_way < IN_FLIGHT and (units := self._next_units()):
            self._under_way += 1
            # In no caller's context: what one of them counts or traces is not the others'.
            task = asyncio.get_running_loop().create_task(self._send(units), context=Context())
            for unit in units:
                unit.sent = task
            self._sending.add(task)
            task.add_done_callback(self._sent)

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._sending.discard(task)
        self._under_way -= 1
        self._send_what_waits()

    def _next_units(self) -> list[Unit]:
        """Take the units of the next statement: one for each run at most, and none whose caller has gone."""
        units: dict[str, Unit] = {}
        size = 0
        while self._waiting and len(units) < MAX_UNITS:
            unit = self._waiting[0]
            size += unit.size
            if units and (unit.fence.run_id in units or size > MAX_BYTES):
                break
            self._waiting.popleft()
            if not unit.answer.done():
                units[unit.fence.run_id] = unit
        return list(units.values())

    async def _send(self, units: Sequence[Unit]) -> None:
        try:
            heads = await self._write(units)
        except StoreError as error:
            self._fail(units, error)
        except Exception as error:  # noqa: BLE001  # the store was closed, say: each caller hears it
            for unit in units:
                _settle(unit, error=_own(error))
        except BaseException:
            # Somebody has cancelled this task, and not the callers: they may write again.
            for unit in units:
                _settle(unit, error=StoreUnavailableError("the statement was given up"))
            raise
        else:
            for number, unit in enumerate(units, 1):
                _settle(unit, heads.get(number))

    async def _write(self, units: Sequence[Unit]) -> dict[int, Row]:
        """Send units, and return the heads of those that were written, by their numbers from 1."""
        # Also for a single one: this statement waits for no lock, and so cannot hold up the next.
        rows = await self._sender.rows(self._statements.many, *self._statements.many_values(units))
        return {row["number"]: row for row in rows}

    def _fail(self, units: Sequence[Unit], error: StoreError) -> None:
        # What the server has refused and rolled back may be the fault of one: each finds out for itself.
        alone = len(units) > 1 and isinstance(error.__cause__, asyncpg.PostgresError) and not error.retryable
        for unit in units:
            if alone:
                _settle(unit)
            else:
                _settle(unit, error=_own(error))


def _settle(unit: Unit, row: Row | None = None, error: BaseException | None = None) -> None:
    if unit.answer.done():
        return
    if error is None:
        unit.answer.set_result(row)
    else:
        unit.answer.set_exception(error)


def _own(error: Exception) -> Exception:
    """Return an error for one of several who get it: each adds to its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def _unit_values(unit: Unit) -> tuple[Value, ...]:
    return tuple(
        None if value is None else str(value) for value in (*unit.fence.values(), len(unit.events), *unit.values)
    )


def _event_values(number: int, unit: Unit) -> Iterator[tuple[Value, ...]]:
    for index, event in enumerate(unit.events, unit.fence.expected_next_index or 0):
        yield str(number), str(index), event.kind, event.step_id, event.payload


def _columns(rows: Iterable[tuple[Value, ...]], count: int) -> list[list[Value]]:
    """Turn rows into columns, of which there are as many for no rows at all."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(count)]
