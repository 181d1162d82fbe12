"""One bounded pass over due work: claim from every source in turn, drive what was claimed."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from .engine.definition import Registry
from .engine.driver import DriveOutcome, Driver, DriverSettings
from .errors import CorruptRecordError, StoreError
from .store import ClaimBatch, ClaimedRun, RunStatus

__all__ = ["Claimer", "RunFailure", "SweepReport", "drive_claim"]

logger = logging.getLogger("workflow_runtime")

_KEPT = 1_000
"""A worker reports over months; what it keeps for its report must not grow with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFailure:
    """A run that could not be driven this time. Its lease runs out, and it is tried again."""

    run_id: str
    error: Exception


@dataclass(slots=True, kw_only=True)
class SweepReport:
    """What one sweep did."""

    claimed: Counter[str] = field(default_factory=Counter)
    """Runs by source: `stale`, `timers`, `pending`."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Drives by outcome: `finished`, `errored`, `aborted`, `paused`, `queued`, `released`, `lost`."""
    failures: deque[RunFailure] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Runs that could not be driven; the last 1,000 of them."""
    corrupt: deque[CorruptRecordError] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Runs that could not be read; the last 1,000."""
    dead: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT))
    """Runs that were parked after repeated crashes; the last 1,000."""
    next_due_ms: int | None = None
    """When there will be work again, as far as is known; milliseconds since the Unix epoch. Not later than the
    present when more is waiting already."""

    @property
    def total(self) -> int:
        """How many runs were claimed."""
        return self.claimed.total()


class Claimer:
    """Claims from the three sources, beginning with another one each time, so that none starves the others."""

    def __init__(
        self,
        *,
        settings: DriverSettings,
        registry: Registry,
        owner: str,
        queues: tuple[str, ...] | None,
        max_crashes: int,
    ) -> None:
        store = settings.store
        self._clock = settings.clock
        common: dict[str, Any] = {
            "owner": owner,
            "lease_ms": settings.lease_ms,
            "workflows": registry.versions(),
            "queues": queues,
        }

        async def stale(limit: int) -> ClaimBatch:
            now_ms = self._clock.now_ms()
            return await store.claim_stale_runs(limit=limit, now_ms=now_ms, max_crashes=max_crashes, **common)

        async def timers(limit: int) -> ClaimBatch:
            return await store.claim_due_timers(limit=limit, now_ms=self._clock.now_ms(), **common)

        async def pending(limit: int) -> ClaimBatch:
            return await store.claim_pending_runs(limit=limit, now_ms=self._clock.now_ms(), **common)

        self._phases: list[tuple[str, Callable[[int], Awaitable[ClaimBatch]]]] = [
            ("stale", stale),
            ("timers", timers),
            ("pending", pending),
        ]

    async def claim(self, limit: int, report: SweepReport) -> list[ClaimedRun]:
        """Claim up to `limit` runs: a fair share from each source, then whatever is left.

        Raises:
            StoreError: Nothing could be claimed because the store is away.
        """
        claims: list[ClaimedRun] = []
        try:
            report.next_due_ms = await self._claim_in_turn(limit, claims, report)
        except StoreError as error:
            # What was claimed before is ours: left alone, it would wait for its lease to run out.
            if not claims:
                raise
            logger.warning("cannot claim: %s", error)
        return claims

    async def _claim_in_turn(self, limit: int, claims: list[ClaimedRun], report: SweepReport) -> int | None:
        phases = self._phases
        self._phases = [*phases[1:], phases[0]]
        due: dict[str, int | None] = {}
        for (source, claim), share in zip(phases, _shares(limit, len(phases)), strict=True):
            due[source] = await self._claim_from(source, claim, share, claims, report)
        now_ms = self._clock.now_ms()
        for source, claim in phases:
            left, next_due_ms = limit - len(claims), due[source]
            if left > 0 and next_due_ms is not None and next_due_ms <= now_ms:
                due[source] = await self._claim_from(source, claim, left, claims, report)
        return min((at_ms for at_ms in due.values() if at_ms is not None), default=None)

    async def _claim_from(
        self,
        source: str,
        claim: Callable[[int], Awaitable[ClaimBatch]],
        limit: int,
        claims: list[ClaimedRun],
        report: SweepReport,
    ) -> int | None:
        batch = await claim(limit)
        claims.extend(batch.claims)
        report.claimed[source] += len(batch.claims)
        report.corrupt.extend(batch.corrupt)
        report.dead.extend(batch.dead)
        for error in batch.corrupt:
            logger.error("%s", error)
        for run_id in batch.dead:
            logger.error("run %s is parked as %s after repeated crashes", run_id, RunStatus.DEAD)
        return batch.next_due_ms


async def drive_claim(driver: Driver, report: SweepReport) -> DriveOutcome | None:
    """Drive a claimed run and note how it went; a run that cannot be driven does not hurt the others."""
    try:
        outcome = await driver.drive()
    except asyncio.CancelledError:
        raise
    except Exception as error:  # reported, with the run's id, instead of ending the whole sweep
        level = logging.WARNING if isinstance(error, StoreError) and error.retryable else logging.ERROR
        logger.log(level, "run %s could not be driven: %s", driver.run_id, error, exc_info=error)
        report.failures.append(RunFailure(run_id=driver.run_id, error=error))
        return None
    report.outcomes[outcome] += 1
    return outcome


def _shares(limit: int, count: int) -> list[int]:
    """Split a limit as evenly as can be; the first ones get the rest."""
    return [limit // count + (index < limit % count) for index in range(count)]
