"""What a claim brings along, read in the same batch that takes the runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from workflow_runtime.errors import CorruptRecordError
from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    ClaimedRun,
    RunStatus,
    WorkflowVersion,
)

from .database import D1PreparedStatement, D1Value, Row
from .rows import RowReader
from .session import Session, json_list

__all__ = ["Claim", "filter_values"]


def filter_values(
    workflows: Sequence[WorkflowVersion] | None, queues: Sequence[str] | None
) -> tuple[str | None, str | None]:
    """Write what a worker can run as the two parameters that the claims take."""
    pairs = None if workflows is None else [[workflow.workflow_id, workflow.version] for workflow in workflows]
    return json_list(pairs), json_list(queues)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """One call that claims: all its runs get the same fresh token."""

    session: Session
    read: RowReader
    token: str
    now_ms: int
    history_limit: int
    history_bytes: int

    def brought(self) -> list[D1PreparedStatement]:
        """Make the statements that read what was taken."""
        statement = self.session.statement
        return [
            statement("claimed.runs", self.token),
            statement("claimed.history", self.token, self.history_limit, self.history_bytes),
            statement("claimed.inbox", self.token, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES),
            statement("claimed.due_timers", self.token, self.now_ms),
        ]

    def claimed(self, results: Sequence[Sequence[Row]]) -> tuple[list[ClaimedRun], list[CorruptRecordError]]:
        """Put the rows of `brought` together, by run; what cannot be read is reported and keeps nothing back."""
        runs, *parts = results
        history, inbox, timers = (_by_run(rows) for rows in parts)
        claims, corrupt = [], []
        for row in runs:
            run_id = row["run_id"]
            try:
                claims.append(self._claimed_run(row, history[run_id], inbox[run_id], timers[run_id]))
            except CorruptRecordError as error:
                corrupt.append(error)
        return claims, corrupt

    async def take_many(
        self, take: str, take_values: Sequence[D1Value], next_due: str, next_due_values: Sequence[D1Value]
    ) -> ClaimBatch:
        """Take what the statement `take` takes, and say when there is more.

        Args:
            take: The name of a statement that gives `run_id` and `status` of each run that it changed.
            take_values: Its values.
            next_due: The name of the statement that tells when the next run is due.
            next_due_values: Its values.
        """
        statement = self.session.statement
        taken, *results, due = await self.session.batch(
            [statement(take, *take_values), *self.brought(), statement(next_due, *next_due_values)]
        )
        claims, corrupt = self.claimed(results)
        return ClaimBatch(
            claims=tuple(claims),
            next_due_ms=due[0]["next_due"],
            corrupt=tuple(corrupt),
            dead=tuple(sorted(row["run_id"] for row in taken if row["status"] == RunStatus.DEAD)),
        )

    def _claimed_run(self, row: Row, history: Sequence[Row], inbox: Sequence[Row], timers: Sequence[Row]) -> ClaimedRun:
        run = self.read.record(row)
        return ClaimedRun(
            run=run,
            lease=self.read.lease(row),
            history=self.read.first_history(history, run, self.history_limit),
            inbox=self.read.inbox(inbox),
            due_timers=tuple(self.read.timer(timer) for timer in timers),
        )


def _by_run(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["run_id"]].append(row)
    return grouped
