"""Writes of many runs, gathered while others are under way, and sent as one statement."""

from __future__ import annotations

import asyncio
import copy
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass, field
from itertools import chain
from typing import TypeAlias, TypeVar

import asyncpg
from workflow_runtime.store import NewEvent, StoreError, StoreUnavailableError
from workflow_store_sql import Fence

from .connections import MOMENT_S
from .lent_connection import Row
from .statement_sender import StatementSender

__all__ = ["Combined", "CombinedWrites", "Unit", "driver_unit"]

ALONE = 4
"""Number of writes of a kind that are sent alone, side by side; only what comes beside them gathers. The statement for
many takes longer than theirs, which shows where it has few runs."""
IN_FLIGHT = 2
"""While so many statements for many are under way, others wait: they go together as soon as one is answered."""
MAX_UNITS = 200
"""The most runs that one statement writes to."""
MAX_BYTES = 4_000_000
"""The most bytes of texts in one statement, unless a single unit has more."""

Value: TypeAlias = "str | int | bool | None"
T = TypeVar("T")


@dataclass(slots=True, eq=False, kw_only=True)
class Unit:
    """One write to one run, as the statement for many is given it, and who waits for the answer."""

    run_id: str
    values: tuple[Value, ...]
    """One value for each of the statement's first parameters."""
    lists: tuple[Sequence[tuple[Value, ...]], ...] = ()
    """The rows of each of its lists, such as the events."""
    answer: asyncio.Future[Row | None] = field(init=False)
    sent: asyncio.Task[None] | None = None
    """Task that sends it, once it is on its way."""

    @property
    def size(self) -> int:
        """Number of bytes of its texts, about."""
        rows = (self.values, *chain.from_iterable(self.lists))
        return sum(len(value) for value in chain.from_iterable(rows) if isinstance(value, str))


def driver_unit(
    fence: Fence, events: Sequence[NewEvent], *values: Value, lists: tuple[Sequence[tuple[Value, ...]], ...] = ()
) -> Unit:
    """Return a driver's write: its fence, its events, and the rest of what its statement is given.

    Args:
        fence: The fence.
        events: What is appended.
        values: The further values.
        lists: The lists behind that of the events.
    """
    first = fence.expected_next_index or 0
    rows = [(index, event.kind, event.step_id, event.payload) for index, event in enumerate(events, first)]
    return Unit(run_id=fence.run_id, values=(*fence.values(), len(events), *values), lists=(rows, *lists))


@dataclass(frozen=True, slots=True)
class ForMany:
    """A statement that does a write for many runs."""

    name: str
    width: int
    """Number of its parameters that hold one value for each run."""
    lists: tuple[int, ...] = ()
    """The same of each list of rows that follows; the number of the run comes first."""

    def values(self, units: Sequence[Unit]) -> tuple[list[str | None], ...]:
        """Write units as the parameters.

        Numbers go as text: each new connection would have to look up the type of a list of them.
        """
        columns = _columns([unit.values for unit in units], self.width)
        for place, width in enumerate(self.lists):
            rows = [(number, *row) for number, unit in enumerate(units, 1) for row in unit.lists[place]]
            columns += _columns(rows, width)
        return tuple(columns)


APPEND = ForMany("append_events_to_many", width=7, lists=(5,))
END = ForMany("mark_runs_ended", width=10, lists=(5,))
PAUSE = ForMany("mark_runs_paused", width=10, lists=(5, 3, 2))
START = ForMany("start_runs_together", width=16)
DELIVERY = ForMany("deliver_signals", width=6)


class Combined:
    """The kinds of writes that may share statements.

    Args:
        sender: Where statements go.
        combine: Whether they do.
    """

    def __init__(self, sender: StatementSender, *, combine: bool) -> None:
        self.appends: CombinedWrites = CombinedWrites(sender, APPEND, combine=combine)
        self.ends: CombinedWrites = CombinedWrites(sender, END, combine=combine)
        self.pauses: CombinedWrites = CombinedWrites(sender, PAUSE, combine=combine)
        self.starts: CombinedWrites = CombinedWrites(sender, START, combine=combine)
        self.deliveries: CombinedWrites = CombinedWrites(sender, DELIVERY, combine=combine)

    def __iter__(self) -> Iterator[CombinedWrites]:
        return iter((self.appends, self.ends, self.pauses, self.starts, self.deliveries))


class CombinedWrites:
    """The writes of one kind that a process makes for different runs.

    A few at once are sent alone, and nothing waits. Those that come beside them gather, and go as one: at the end of
    this turn of the event loop, or when an answer makes room. Each is decided by itself in that statement. One that the
    statement leaves out (its fence does not hold, or somebody has locked its head) is then sent alone, which tells why.

    Args:
        sender: Where statements go.
        statement: What does the write for many. Its rows say which run they are about: `number`, from 1.
        combine: False sends each unit alone, and at once.
    """

    def __init__(self, sender: StatementSender, statement: ForMany, *, combine: bool) -> None:
        self.always: bool = False
        """True sends each unit by the statement for many, as if something were under way; for tests."""
        self._sender = sender
        self._statement = statement
        self._combine = combine
        self._waiting: deque[Unit] = deque()
        self._alone = 0
        """Number of units that are under way alone."""
        self._under_way = 0
        self._sending: set[asyncio.Task[None]] = set()
        self._gathers = False
        """True if what waits is sent at the end of this turn of the event loop."""

    async def commit(
        self, make: Callable[[], Unit], alone: Callable[[], Awaitable[T]], together: Callable[[Row], T]
    ) -> T:
        """Write, together with others where there are some.

        Args:
            make: Makes the write as one of many.
            alone: Sends it alone.
            together: Reads the answer of the statement for many.

        Raises:
            StoreError: The database could not do it, or did not answer. As with any write, it may be done all the same.
        """
        if not self._combine:
            return await alone()
        if self._idle:
            with self._counted():
                return await alone()
        row = await self._together(make())
        if row is not None:
            return together(row)
        # It may have to wait for somebody who has locked its head. Others do not wait with it.
        return await alone()

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
            if units and (unit.run_id in units or size > MAX_BYTES):
                break
            self._waiting.popleft()
            if not unit.answer.done():
                units[unit.run_id] = unit
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
        rows = await self._sender.rows(self._statement.name, *self._statement.values(units))
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


def _columns(rows: Sequence[tuple[Value, ...]], width: int) -> list[list[str | None]]:
    """Turn rows into columns of texts, of which there are as many for no rows at all."""
    columns = zip(*rows, strict=True) if rows else [()] * width
    return [[value if value is None else str(value) for value in column] for column in columns]
