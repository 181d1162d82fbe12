"""The end of a drive that cannot go on: it was cancelled, or the store is away."""

from __future__ import annotations

import asyncio

from ..errors import StoreError
from ..logs import get_logger, one_line
from .run_writer import RunWriter
from .step_tasks import StepTasks
from .step_transactions import StepTransactions
from .stop_request import StopRequest

__all__ = ["BreakOff"]

logger = get_logger("workflow_runtime")

_LET_GO_S = 2.0
"""The longest that a cancelled drive takes to hand its run over."""


class BreakOff:
    """The ways out of a drive that an error has ended. None of them writes into the log.

    They give the lease back only when no step runs any more: the next worker would run the step beside it.

    Args:
        writer: Gives the lease back.
        steps: What may still run.
        transactions: What may still commit.
        stop: Made, so that a store that is away does not hold up the end.
        wake: Set when a step or its plain function has ended.
    """

    def __init__(
        self,
        *,
        writer: RunWriter,
        steps: StepTasks,
        transactions: StepTransactions,
        stop: StopRequest,
        wake: asyncio.Event,
    ) -> None:
        self._writer = writer
        self._steps = steps
        self._transactions = transactions
        self._stop = stop
        self._wake = wake

    async def release_unless_at_work(self) -> None:
        """Release the lease, or leave it to run out where a step still runs.

        Raises:
            StoreError: The store does not take it back.
        """
        if not self._steps.at_work:
            await self._writer.release()

    async def release_at_once(self) -> None:
        """Release the lease within some seconds, though nothing more can be recorded. The steps are cancelled."""
        self._stop.make()
        self.cancel_steps()
        try:
            async with asyncio.timeout(_LET_GO_S):
                await self._await_steps()
                if not self._steps.holding and not self._writer.lease.lost:
                    await self._writer.release()
        except (StoreError, TimeoutError) as error:
            logger.warning("run %r: not handed over, its lease runs out: %s", self._writer.run_id, one_line(error))

    async def sit_out_threads(self) -> None:
        """Keep the lease while a plain function runs that nobody can interrupt."""
        self._steps.cancel()
        while self._steps.holding and not self._writer.lease.lost:
            self._wake.clear()
            await self._wake.wait()

    def cancel_steps(self) -> None:
        """Cancel all steps, and let none of them commit."""
        self._transactions.close()
        self._steps.cancel()

    async def clean_up(self, within_s: float) -> None:
        """End the steps, as far as they end in this time."""
        self.cancel_steps()
        if not self._steps.running:
            return
        _, left = await asyncio.wait(self._steps.running, timeout=within_s)
        if left:
            logger.warning("run %r: %d cancelled steps are still cleaning up", self._writer.run_id, len(left))

    async def _await_steps(self) -> None:
        while self._steps.running:
            await asyncio.wait(self._steps.running)
            await asyncio.sleep(0)  # callbacks record how each task ended
