"""Stores that are whole only as long as nobody interrupts them."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from memory_mutants import Faulty
from mutant_catalogue import broken
from workflow_contract_tests.races import interruptions
from workflow_runtime.store import NotFound


@broken("ERROR-2")
class PauseInTwoUnits(Faulty):
    """A pause sets its timers in one unit and ends the lease in the next."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is not None and run.lease is not None and run.lease.token == arguments["lease_token"]:
            for timer in arguments.get("set_timers", ()):
                run.timers[timer.timer_id] = timer
            await asyncio.sleep(0)
        return await super().mark_run_paused(**arguments)


@broken("ERROR-2")
class DeleteGoesOnLater(Faulty):
    """A delete forgets the log first, and the run when it gets to it."""

    async def delete_run(self, **arguments: Any) -> Any:
        run = self.run(arguments)
        if run is None:
            return NotFound()
        answer = await super().delete_run(**arguments)
        if answer.kind == "deleted":
            self._data.runs[run.run_id] = run
            run.events.clear()
            await asyncio.sleep(0)
            del self._data.runs[run.run_id]
        return answer


@broken("ERROR-2")
class CancellationIsSwallowed(Faulty):
    """A caller that is cancelled gets an answer all the same, and its task goes on."""

    async def claim_run(self, **arguments: Any) -> Any:
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
        return await super().claim_run(**arguments)


@broken("ERROR-2", (interruptions, "PATIENCE_S", 0.5))
class CancelledCallKeepsTheLock(Faulty):
    """A call that is cancelled while it waits does not give its turn back."""

    _turn: asyncio.Lock | None = None

    async def _call(self, verb: str, arguments: dict[str, Any]) -> Any:
        self._turn = self._turn or asyncio.Lock()
        await self._turn.acquire()
        await asyncio.sleep(0)
        answer = await getattr(super(), verb)(**arguments)
        self._turn.release()
        return answer

    async def deliver_signal(self, **arguments: Any) -> Any:
        return await self._call("deliver_signal", arguments)

    async def read_clock(self) -> Any:
        return await self._call("read_clock", {})


@broken("ERROR-2")
class DatabaseErrorForACancellation(Faulty):
    """A cancelled call raises what its broken connection raised."""

    async def append_events(self, **arguments: Any) -> Any:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            raise ConnectionError("the connection was closed in the middle of an operation") from None
        return await super().append_events(**arguments)


@broken("ERROR-2")
class RepeatDeliversTwice(Faulty):
    """A delivery that was cancelled after its commit is forgotten, so that it comes twice."""

    async def deliver_retry(self, **arguments: Any) -> Any:
        answer = await super().deliver_retry(**arguments)
        run = self.run(arguments)
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            if run is not None:
                run.deliveries.pop(("retry", arguments["retry_id"]), None)
            raise
        return answer
