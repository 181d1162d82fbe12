"""The facts that a claim returns, read in the same batch that takes the runs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    RunStatus,
    WorkflowVersion,
)
from workflow_store_sql import RowReader, RunRows, claim_batch

from .database import D1PreparedStatement, D1Value, Row
from .statement_sender import StatementSender, json_list

__all__ = ["Claim", "filter_values", "run_rows"]


def filter_values(
    workflows: Sequence[WorkflowVersion] | None, queues: Sequence[str] | None
) -> tuple[str | None, str | None]:
    """Return what a worker can run, as the two parameters that the claims take."""
    pairs = None if workflows is None else [[workflow.workflow_id, workflow.version] for workflow in workflows]
    return json_list(pairs), json_list(queues)


def run_rows(results: Sequence[Sequence[Row]]) -> Iterator[RunRows]:
    """Yield the rows of each run, from those of all runs, of their events, of their inboxes and of their timers."""
    runs, *parts = results
    events, inbox, timers = (_by_run(rows) for rows in parts)
    for row in runs:
        run_id = row["run_id"]
        yield RunRows(row, events[run_id], inbox[run_id], timers[run_id])


@dataclass(frozen=True, slots=True)
class Claim:
    """One call that claims: all its runs get the same fresh token."""

    sender: StatementSender
    read: RowReader
    token: str
    now_ms: int
    history_limit: int
    history_bytes: int

    def brought(self) -> list[D1PreparedStatement]:
        """Make the statements that read what was taken."""
        statement = self.sender.statement
        return [
            statement("claimed.runs", self.token),
            statement("claimed.history", self.token, self.history_limit, self.history_bytes),
            statement("claimed.inbox", self.token, DEFAULT_HISTORY_EVENTS, DEFAULT_HISTORY_BYTES),
            statement("claimed.due_timers", self.token, self.now_ms),
        ]

    async def take_many(
        self, take: str, take_values: Sequence[D1Value], next_due: str, next_due_values: Sequence[D1Value]
    ) -> ClaimBatch:
        """Take what the statement `take` takes, and say when there is more.

        Args:
            take: The name of a statement that gives `run_id` and `status` of each run that it changed.
            take_values: Its values.
            next_due: The name of the statement that returns when the next run is due.
            next_due_values: Its values.
        """
        statement = self.sender.statement
        taken, *results, due = await self.sender.batch(
            [statement(take, *take_values), *self.brought(), statement(next_due, *next_due_values)]
        )
        return claim_batch(
            self.read,
            run_rows(results),
            history_limit=self.history_limit,
            next_due_ms=due[0]["next_due"],
            dead=(row["run_id"] for row in taken if row["status"] == RunStatus.DEAD),
        )


def _by_run(rows: Sequence[Row]) -> Mapping[str, list[Row]]:
    grouped: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        grouped[row["run_id"]].append(row)
    return grouped
