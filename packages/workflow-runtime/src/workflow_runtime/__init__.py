"""Durable workflows inside your own application and your own database.

A workflow is a plain `async def`; what it does through its context is recorded in a store that you choose, so
that it outlives crashes, deploys and week-long waits.
"""

from . import errors
from ._version import __version__
from .bulk import BulkReport
from .clock import Clock, StoreClock, TestClock
from .engine.context import Approval, Context
from .engine.definition import Workflow, workflow
from .engine.step_info import StepInfo, step_info
from .errors import *  # noqa: F403  # the whole tree is public
from .failure import Failure
from .handles import RunHandle
from .health import WorkerHealth
from .many import DeliverSignal, StartRun
from .metering import QueryMeter, meter_queries
from .payloads import JsonCodec, JsonText, JsonValue, PayloadCodec, decode_json, encode_json
from .retry import NO_RETRY, RetryPolicy, exponential_backoff, fixed_backoff
from .runtime import WorkflowRuntime
from .schedules.backfill import Backfill, BackfillStatus
from .schedules.client import Schedules
from .schedules.cron import Cron
from .schedules.definition import MissedPolicy, Schedule
from .schedules.every import Every
from .schedules.firing import TickFailure
from .schedules.record import ScheduleRecord
from .store import RunStatus, WorkflowExecutionStore
from .sweep import RunFailure, SweepReport
from .unserved import UnservedRuns

__all__ = [
    "NO_RETRY",
    "Approval",
    "Backfill",
    "BackfillStatus",
    "BulkReport",
    "Clock",
    "Context",
    "Cron",
    "DeliverSignal",
    "Every",
    "Failure",
    "JsonCodec",
    "JsonText",
    "JsonValue",
    "MissedPolicy",
    "PayloadCodec",
    "QueryMeter",
    "RetryPolicy",
    "RunFailure",
    "RunHandle",
    "RunStatus",
    "Schedule",
    "ScheduleRecord",
    "Schedules",
    "StartRun",
    "StepInfo",
    "StoreClock",
    "SweepReport",
    "TestClock",
    "TickFailure",
    "UnservedRuns",
    "WorkerHealth",
    "Workflow",
    "WorkflowExecutionStore",
    "WorkflowRuntime",
    "__version__",
    "decode_json",
    "encode_json",
    "exponential_backoff",
    "fixed_backoff",
    "meter_queries",
    "step_info",
    "workflow",
]
__all__ += errors.__all__
