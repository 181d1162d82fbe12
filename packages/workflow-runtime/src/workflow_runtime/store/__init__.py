"""The store contract: Protocols with numbered clauses, the values that cross it, and help for store authors."""

from . import results, values
from .arguments import (
    approval_payload,
    cancel_payload,
    check_prunable,
    check_retryable,
    check_transaction_write,
    checked,
)
from .comparison import differing_fields, differing_fork, same_json
from .cursors import decode_run_cursor, decode_schedule_cursor, encode_run_cursor, encode_schedule_cursor
from .following import LogPage, follow_events
from .home import Home
from .protocol import (
    CONTRACT_VERSION,
    BulkStore,
    EventLogStore,
    LeaseRenewer,
    LeaseStore,
    Listening,
    QueryStore,
    RunLifecycleStore,
    ScheduleStore,
    SignalStore,
    StoreAdmin,
    SupportsHeartbeats,
    SupportsMetering,
    SupportsNotify,
    SupportsSubscribe,
    SupportsTransactions,
    TimerStore,
    WorkflowExecutionStore,
)
from .results import *  # noqa: F403  # the answers are many and all public
from .status_table import DRIVER_VERBS, STATES, STATUS_TABLE, render_status_table
from .timeline import build_timeline
from .values import *  # noqa: F403

__all__ = [
    "CONTRACT_VERSION",
    "DRIVER_VERBS",
    "STATES",
    "STATUS_TABLE",
    "BulkStore",
    "EventLogStore",
    "Home",
    "LeaseRenewer",
    "LeaseStore",
    "Listening",
    "LogPage",
    "QueryStore",
    "RunLifecycleStore",
    "ScheduleStore",
    "SignalStore",
    "StoreAdmin",
    "SupportsHeartbeats",
    "SupportsMetering",
    "SupportsNotify",
    "SupportsSubscribe",
    "SupportsTransactions",
    "TimerStore",
    "WorkflowExecutionStore",
    "approval_payload",
    "build_timeline",
    "cancel_payload",
    "check_prunable",
    "check_retryable",
    "check_transaction_write",
    "checked",
    "decode_run_cursor",
    "decode_schedule_cursor",
    "differing_fields",
    "differing_fork",
    "encode_run_cursor",
    "encode_schedule_cursor",
    "follow_events",
    "render_status_table",
    "same_json",
]
__all__ += results.__all__
__all__ += values.__all__
