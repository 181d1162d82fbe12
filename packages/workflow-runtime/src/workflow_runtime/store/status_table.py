"""The answer of each verb in each status. The contract tests walk through every cell.

`lease-lost` stands for `LeaseLostError`. `live` and `expired` are the two states of a `running` run's lease;
`due` cells hold for a run whose time has come.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["DRIVER_VERBS", "STATES", "STATUS_TABLE", "render_status_table"]

STATES: Final = (
    "queued",
    "running-live",
    "running-expired",
    "paused",
    "paused-due",
    "finished",
    "errored",
    "aborted",
    "dead",
)

DRIVER_VERBS: Final = (
    "append_events",
    "heartbeat_run_lease",
    "release_run_lease",
    "schedule_timer",
    "mark_run_paused",
    "mark_run_finished",
    "mark_run_errored",
)
"""Called with the run's last token: they work while it is running and raise `LeaseLostError` otherwise."""


def _row(*cells: str) -> Mapping[str, str]:
    return dict(zip(STATES, cells, strict=True))


_DRIVER = _row(
    "lease-lost", "ok", "ok", "lease-lost", "lease-lost", "lease-lost", "lease-lost", "lease-lost", "lease-lost"
)

# fmt: off
STATUS_TABLE: Final[Mapping[str, Mapping[str, str]]] = {
    #                           queued            running-live      running-expired   paused            paused-due        finished          errored           aborted           dead
    "create_run":          _row("existing",       "existing",       "existing",       "existing",       "existing",       "existing",       "existing",       "existing",       "existing"),
    "fork_run":            _row("forked",         "forked",         "forked",         "forked",         "forked",         "forked",         "forked",         "forked",         "forked"),
    "claim_run":           _row("claimed",        "not-claimable",  "claimed",        "not-claimable",  "claimed",        "not-claimable",  "not-claimable",  "not-claimable",  "not-claimable"),
    "claim_pending_runs":  _row("claimed",        "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed"),
    "claim_stale_runs":    _row("not-claimed",    "not-claimed",    "claimed",        "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed"),
    "claim_due_timers":    _row("not-claimed",    "not-claimed",    "not-claimed",    "not-claimed",    "claimed",        "not-claimed",    "not-claimed",    "not-claimed",    "not-claimed"),
    "deliver_signal":      _row("buffered",       "buffered",       "buffered",       "delivered",      "delivered",      "finished",       "finished",       "finished",       "buffered"),
    "deliver_approval":    _row("buffered",       "buffered",       "buffered",       "delivered",      "delivered",      "finished",       "finished",       "finished",       "buffered"),
    "deliver_retry":       _row("buffered",       "buffered",       "buffered",       "delivered",      "delivered",      "finished",       "finished",       "finished",       "buffered"),
    "cancel_run":          _row("requested",      "requested",      "requested",      "requested",      "requested",      "finished",       "finished",       "finished",       "finished"),
    "terminate_run":       _row("terminated",     "terminated",     "terminated",     "terminated",     "terminated",     "finished",       "finished",       "finished",       "terminated"),
    "requeue_run":         _row("not-requeueable", "not-requeueable", "not-requeueable", "not-requeueable", "not-requeueable", "not-requeueable", "not-requeueable", "not-requeueable", "requeued"),
    "retry_run":           _row("not-retryable",  "not-retryable",  "not-retryable",  "not-retryable",  "not-retryable",  "not-retryable",  "retried",        "not-retryable",  "retried"),
    "delete_run":          _row("deleted",        "not-deletable",  "deleted",        "deleted",        "deleted",        "deleted",        "deleted",        "deleted",        "deleted"),
    "prune_runs":          _row("kept",           "kept",           "kept",           "kept",           "kept",           "pruned",         "pruned",         "pruned",         "pruned"),
} | dict.fromkeys(DRIVER_VERBS, _DRIVER)
# fmt: on


def render_status_table() -> str:
    """Write the table as Markdown, for the documentation."""
    head = "| verb | " + " | ".join(STATES) + " |"
    rule = "|---" * (len(STATES) + 1) + "|"
    rows = [
        f"| `{verb}` | " + " | ".join(cells[state] for state in STATES) + " |" for verb, cells in STATUS_TABLE.items()
    ]
    return "\n".join([head, rule, *rows])
