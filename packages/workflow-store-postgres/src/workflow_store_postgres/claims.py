"""One call that claims: the parameters of its statements, and the facts in their rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    DEFAULT_HISTORY_EVENTS,
    ClaimBatch,
    RunStatus,
    WorkflowVersion,
)
from workflow_store_sql import RowReader, claim_batch

from .rows import run_rows
from .statement_sender import Row, StatementSender

__all__ = ["CLAIM_TRIES", "Claim", "filter_values"]

CLAIM_TRIES = 8
"""Number of times that a claim looks again when others hold all that is due. They finish within milliseconds."""

FilterValues = tuple[list[str] | None, list[str] | None, list[str] | None]


def filter_values(workflows: Sequence[WorkflowVersion] | None, queues: Sequence[str] | None) -> FilterValues:
    """Write what a worker can run as the three parameters that the claims take."""
    return (
        None if workflows is None else [workflow.workflow_id for workflow in workflows],
        None if workflows is None else [workflow.version for workflow in workflows],
        None if queues is None else list(queues),
    )


@dataclass(frozen=True, slots=True)
class Claim:
    """One call that claims: all its runs get the same fresh token."""

    sender: StatementSender
    read: RowReader
    owner: str
    lease_expires_at_ms: int
    now_ms: int
    history_limit: int
    history_bytes: int

    async def take_one(self, run_id: str, max_crashes: int) -> Row | None:
        """Claim a run by its id if it can be claimed, and give what was found; `None` for an unknown id."""
        rows = await self.sender.settled("claim_run", *self._values(), run_id, max_crashes)
        return rows[0] if rows else None

    async def take_many(self, name: str, limit: int, *values: object) -> ClaimBatch:
        """Claim what a named statement finds.

        Args:
            name: One of the claims for several runs.
            limit: At most so many.
            values: Its further parameters.
        """
        rows = await self.sender.settled_soon(name, *self._values(), limit, *values, tries=CLAIM_TRIES)
        found = [row for row in rows if row["run_id"] is not None]
        return claim_batch(
            self.read,
            (run_rows(row) for row in found if row["status"] != RunStatus.DEAD),
            history_limit=self.history_limit,
            next_due_ms=rows[0]["next_due"],
            dead=(row["run_id"] for row in found if row["status"] == RunStatus.DEAD),
        )

    def _values(self) -> tuple[object, ...]:
        return (
            self.owner,
            self.sender.new_token(),
            self.lease_expires_at_ms,
            self.now_ms,
            self.history_limit,
            self.history_bytes,
            DEFAULT_HISTORY_EVENTS,
            DEFAULT_HISTORY_BYTES,
        )
