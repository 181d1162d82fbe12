"""The store contract: Protocols with numbered clauses, the values that cross it, and help for store authors.

A store imports nothing else of the runtime. What comes from other modules of it is here too: errors, ids, payloads, and
the helpers of stores that log, take durations or count their queries.
"""

from ..durations import check_duration
from ..errors import (
    CapabilityNotSupportedError,
    ConfigurationError,
    CorruptRecordError,
    ForeignTablesError,
    InvalidArgumentError,
    InvalidPayloadError,
    LeaseLostError,
    LogConflictError,
    PayloadTooLargeError,
    QueryLimitReachedError,
    RunNotFoundError,
    ScheduleNotFoundError,
    SchemaAheadError,
    SchemaBehindError,
    SchemaDamagedError,
    SchemaError,
    SchemaHalfAppliedError,
    SchemaMissingError,
    StoreAccessError,
    StoreError,
    StoreNotOpenError,
    StoreOperationError,
    StoreUnavailableError,
    TransactionEndedError,
    WorkflowError,
    WrongEnvironmentError,
)
from ..ids import MAX_ID_BYTES, check_id, new_id
from ..isolation import outside_handlers, refuse_in_handler
from ..logs import get_logger, one_line
from ..payloads import JsonText, check_is_json, decode_json, encode_json
from ..query_meter import note_rows, spend_queries
from . import results, values
from .arguments import (
    MAX_TIME_MS,
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
    "MAX_ID_BYTES",
    "MAX_TIME_MS",
    "STATES",
    "STATUS_TABLE",
    "BulkStore",
    "CapabilityNotSupportedError",
    "ConfigurationError",
    "CorruptRecordError",
    "EventLogStore",
    "ForeignTablesError",
    "Home",
    "InvalidArgumentError",
    "InvalidPayloadError",
    "JsonText",
    "LeaseLostError",
    "LeaseRenewer",
    "LeaseStore",
    "Listening",
    "LogConflictError",
    "LogPage",
    "PayloadTooLargeError",
    "QueryLimitReachedError",
    "QueryStore",
    "RunLifecycleStore",
    "RunNotFoundError",
    "ScheduleNotFoundError",
    "ScheduleStore",
    "SchemaAheadError",
    "SchemaBehindError",
    "SchemaDamagedError",
    "SchemaError",
    "SchemaHalfAppliedError",
    "SchemaMissingError",
    "SignalStore",
    "StoreAccessError",
    "StoreAdmin",
    "StoreError",
    "StoreNotOpenError",
    "StoreOperationError",
    "StoreUnavailableError",
    "SupportsHeartbeats",
    "SupportsMetering",
    "SupportsNotify",
    "SupportsSubscribe",
    "SupportsTransactions",
    "TimerStore",
    "TransactionEndedError",
    "WorkflowError",
    "WorkflowExecutionStore",
    "WrongEnvironmentError",
    "approval_payload",
    "build_timeline",
    "cancel_payload",
    "check_duration",
    "check_id",
    "check_is_json",
    "check_prunable",
    "check_retryable",
    "check_transaction_write",
    "checked",
    "decode_json",
    "decode_run_cursor",
    "decode_schedule_cursor",
    "differing_fields",
    "differing_fork",
    "encode_json",
    "encode_run_cursor",
    "encode_schedule_cursor",
    "follow_events",
    "get_logger",
    "new_id",
    "note_rows",
    "one_line",
    "outside_handlers",
    "refuse_in_handler",
    "render_status_table",
    "same_json",
    "spend_queries",
]
__all__ += results.__all__
__all__ += values.__all__
