"""The common part of the SQL stores of workflow-runtime, as values and functions. It talks to no database."""

from ._version import __version__
from .answers import (
    ENDED,
    NOT_CANCELLABLE,
    answer_approval,
    answer_cancel,
    answer_delete,
    answer_requeue,
    answer_retry,
    answer_retry_request,
    answer_signal,
    answer_terminate,
    error_status,
    prunable_statuses,
)
from .claims import (
    answer_heartbeat,
    answer_heartbeat_groups,
    answer_heartbeats,
    claim_batch,
    not_claimable,
    read_claims,
)
from .creation import Fork, NewRun, creation_answer, creation_id, new_lease
from .fence import Fence, answer_append
from .many import Creations, Deliveries, answer_signals, creation_values
from .opening import StoreOpening
from .pages import (
    ANY_SIZE,
    END_OF_TIME_MS,
    after_prefix,
    fail_only,
    read_log_page,
    read_run_page,
    read_schedule_page,
    run_page_bounds,
    schedule_page_start,
)
from .queries import InvalidQueryFileError, Query, load_queries, parse_queries
from .rows import RowReader, RunRows, awaited_text, plain_payload
from .schema import Schema, chosen_migrations
from .statements import load_statements
from .tables import environment_name, sqlalchemy_tables, table_names
from .ticks import TickMark, read_schedule

__all__ = [
    "ANY_SIZE",
    "ENDED",
    "END_OF_TIME_MS",
    "NOT_CANCELLABLE",
    "Creations",
    "Deliveries",
    "Fence",
    "Fork",
    "InvalidQueryFileError",
    "NewRun",
    "Query",
    "RowReader",
    "RunRows",
    "Schema",
    "StoreOpening",
    "TickMark",
    "__version__",
    "after_prefix",
    "answer_append",
    "answer_approval",
    "answer_cancel",
    "answer_delete",
    "answer_heartbeat",
    "answer_heartbeat_groups",
    "answer_heartbeats",
    "answer_requeue",
    "answer_retry",
    "answer_retry_request",
    "answer_signal",
    "answer_signals",
    "answer_terminate",
    "awaited_text",
    "chosen_migrations",
    "claim_batch",
    "creation_answer",
    "creation_id",
    "creation_values",
    "environment_name",
    "error_status",
    "fail_only",
    "load_queries",
    "load_statements",
    "new_lease",
    "not_claimable",
    "parse_queries",
    "plain_payload",
    "prunable_statuses",
    "read_claims",
    "read_log_page",
    "read_run_page",
    "read_schedule",
    "read_schedule_page",
    "run_page_bounds",
    "schedule_page_start",
    "sqlalchemy_tables",
    "table_names",
]
