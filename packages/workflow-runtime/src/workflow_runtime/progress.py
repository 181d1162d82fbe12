"""A worker's own lines in the log: that it starts, what it waits for, and each minute its progress."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from .clock import Clock
from .logs import get_logger, one_line
from .store import WorkflowVersion
from .sweep import SweepReport

__all__ = ["Progress", "log_start"]

logger = get_logger("workflow_runtime")

_EVERY_MS = 60_000
_OUTCOMES = ("finished", "errored", "aborted", "paused", "queued", "released", "lost")


def log_start(
    *,
    owner: str,
    store: object,
    workflows: Sequence[WorkflowVersion],
    queues: Sequence[str] | None,
    concurrency: int,
    lease_ms: int,
) -> None:
    """Log what a worker is about to do."""
    known = ", ".join(f"{workflow.workflow_id!r} {workflow.version!r}" for workflow in workflows)
    logger.info(
        "worker %r starts: store %s; workflows %s; queues %s; concurrency %d; lease %.3g s",
        owner,
        one_line(type(store).__name__),
        one_line(known or "none"),
        one_line("all" if queues is None else ", ".join(map(repr, queues)) or "none"),
        concurrency,
        lease_ms / 1000,
    )


class Progress:
    """A worker's progress: its report compared with that of a minute ago, in the log.

    Args:
        report: Of the worker; it grows.
        clock: The runtime's.
        driving: Returns the number of runs that are being driven.
    """

    def __init__(self, report: SweepReport, *, clock: Clock, driving: Callable[[], int]) -> None:
        self._report = report
        self._clock = clock
        self._driving = driving
        self._before = _counts(report)
        self._told_of_leases = False

    async def tell(self) -> None:
        """Write a line each minute, until cancelled."""
        never = asyncio.Event()
        while True:
            await self._clock.wait(never, self._clock.now_ms() + _EVERY_MS)
            self._tell()

    def look_was_answered(self) -> None:
        """Log once, at the start, that nothing can be done before others' leases run out: nobody sees why else."""
        end_ms, now_ms = self._report.next_lease_end_ms, self._clock.now_ms()
        if not self._told_of_leases and not self._report.total and end_ms is not None and end_ms > now_ms:
            logger.info(
                "runs are under leases of other workers, the first one runs out in %.1f s unless it is renewed",
                (end_ms - now_ms) / 1000,
            )
        self._told_of_leases = True

    def _tell(self) -> None:
        counts = _counts(self._report)
        new, self._before = counts - self._before, counts
        due_ms, now_ms = self._report.oldest_due_ms, self._clock.now_ms()
        lag_s = 0.0 if due_ms is None else (now_ms - due_ms) / 1000
        what = [f"{new[name]} {name}" for name in ("claimed", *_OUTCOMES, "failed", "retried", "ticks") if new[name]]
        logger.info(
            "in the last minute: %s; driving %d; %s",
            one_line(", ".join(what) or "nothing to do"),
            self._driving(),
            one_line(f"the oldest due run waits for {lag_s:.1f} s" if lag_s > 0 else "nothing is due"),
        )


def _counts(report: SweepReport) -> Counter[str]:
    counts = Counter({outcome: report.outcomes[outcome] for outcome in _OUTCOMES})
    counts.update(claimed=report.total, failed=report.failed, retried=report.retried, ticks=report.ticks.total())
    return counts
