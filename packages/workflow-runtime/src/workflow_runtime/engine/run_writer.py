"""A driver's writes: fenced, numbered, and repeated when an answer was lost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar, cast

from ..clock import Clock
from ..errors import LeaseLostError, StoreError
from ..ids import new_operation_id
from ..payloads import JsonText
from ..store import (
    Appended,
    Awaited,
    Event,
    Paused,
    SupportsTransactions,
    TransactionWork,
    TransactionWrite,
    WorkflowExecutionStore,
)
from ..store_retry import may_pass, try_again
from .held_lease import HeldLease
from .log_write import LogWrite
from .stop_request import StopRequest

__all__ = ["RunWriter"]

T = TypeVar("T")

_LONGEST_PATIENCE_S = 30.0


class RunWriter:
    """The writes of one drive, under its lease, each from the position in the log that the last one left."""

    def __init__(
        self,
        *,
        store: WorkflowExecutionStore,
        lease: HeldLease,
        next_index: int,
        clock: Clock,
        stop: StopRequest,
    ) -> None:
        self.run_id: str = lease.run_id
        self.next_index: int = next_index
        self._store = store
        self.lease = lease
        self._clock = clock
        self._stop = stop

    async def append(self, write: LogWrite) -> None:
        """Append to the log and renew the lease."""
        appended = await self._write(
            self._store.append_events,
            expected_next_index=self.next_index,
            events=write.events,
            taken_inbox=write.taken_inbox,
            set_timers=write.set_timers,
            removed_timers=write.removed_timers,
            lease_ms=self.lease.lease_ms,
        )
        self._appended(appended)

    async def transact(self, work: TransactionWork, *, is_own: Callable[[StoreError], bool]) -> None:
        """Run `work` in a transaction of the store, append what it gives, and renew the lease.

        Args:
            work: See `SupportsTransactions`. What it gives is made by `transaction_write`.
            is_own: Whether an error was raised by `work` itself: that says nothing about the store or the lease.
        """
        store = cast("SupportsTransactions", self._store)
        verb = partial(store.append_in_transaction, run_id=self.run_id, lease_token=self.lease.token, work=work)
        self._appended(await self._repeat(partial(verb, operation_id=new_operation_id()), is_own))

    def transaction_write(self, write: LogWrite) -> TransactionWrite:
        """Return what a transaction appends, from the present position in the log."""
        arguments = self._log_and_timers(write)
        return TransactionWrite(now_ms=self._clock.now_ms(), lease_ms=self.lease.lease_ms, **arguments)

    async def read_from(self, index: int) -> tuple[Event, ...]:
        """Read what was appended from an index on."""
        events: list[Event] = []
        while index + len(events) < self.next_index:
            limit = self.next_index - index - len(events)
            first = index + len(events)
            page = await self.ask(partial(self._store.read_events, run_id=self.run_id, from_index=first, limit=limit))
            if not page:
                break
            events += page
        return tuple(events)

    async def ask(self, call: Callable[[], Awaitable[T]]) -> T:
        """Read something, as patiently as a write is made."""
        return await self._repeat(call, _never)

    def _appended(self, appended: Appended) -> None:
        self.next_index = appended.next_index
        self.lease.inbox_seq = max(self.lease.inbox_seq, appended.inbox_seq)
        self.lease.extended(appended.lease_expires_at_ms)

    async def pause(self, write: LogWrite, *, seen_inbox_seq: int, awaited: Sequence[Awaited]) -> Paused:
        """End the lease because every branch waits."""
        arguments = self._log_and_timers(write)
        verb = self._store.mark_run_paused
        return await self._write(verb, seen_inbox_seq=seen_inbox_seq, awaited=awaited, **arguments)

    async def finish(self, write: LogWrite, *, output: JsonText) -> None:
        """End the run with an output."""
        await self._write(self._store.mark_run_finished, output=output, **self._log(write))

    async def error(
        self,
        write: LogWrite,
        *,
        error: JsonText,
        aborted: bool = False,
        parked: bool = False,
        reason: str | None = None,
    ) -> None:
        """End the run with an error or as aborted, or park it."""
        how = {"aborted": aborted, "parked": parked, "reason": reason}
        await self._write(self._store.mark_run_errored, error=error, **how, **self._log(write))

    async def release(self) -> None:
        """Hand the run over to any worker."""
        await self._write(self._store.release_run_lease)

    def _log(self, write: LogWrite) -> dict[str, Any]:
        return {
            "expected_next_index": self.next_index,
            "events": write.events,
            "taken_inbox": write.taken_inbox,
        }

    def _log_and_timers(self, write: LogWrite) -> dict[str, Any]:
        return self._log(write) | {"set_timers": write.set_timers, "removed_timers": write.removed_timers}

    async def _write(self, verb: Callable[..., Awaitable[T]], **arguments: Any) -> T:
        # One operation id for all tries: a try whose answer was lost after the commit is not done twice.
        named = partial(
            verb, run_id=self.run_id, lease_token=self.lease.token, operation_id=new_operation_id(), **arguments
        )
        try:  # nearly every write is answered at once
            return await named(now_ms=self._clock.now_ms())
        except StoreError as error:
            return await self._again(error, lambda: named(now_ms=self._clock.now_ms()), _never)

    async def _repeat(self, call: Callable[[], Awaitable[T]], is_own: Callable[[StoreError], bool]) -> T:
        try:
            return await call()
        except StoreError as error:
            return await self._again(error, call, is_own)

    async def _again(
        self, error: StoreError, call: Callable[[], Awaitable[T]], is_own: Callable[[StoreError], bool]
    ) -> T:
        """Repeat a call after its first error, as long as that is one that passes."""
        try:
            return await try_again(
                error,
                call,
                is_final=lambda error: is_own(error) or not may_pass(error),
                patience_s=self._patience_s,
            )
        except LeaseLostError as lost:
            self.lease.lost = self.lease.lost or not is_own(lost)
            raise

    def _patience_s(self) -> float:
        # While the lease lasts nobody else drives the run, so the steps' results can still be kept.
        return 0.0 if self._stop.made else min(self.lease.lease_ms / 1000, _LONGEST_PATIENCE_S)


def _never(error: StoreError) -> bool:
    return False
