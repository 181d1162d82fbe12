"""The part of a driver that is not its run's."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from ..clock import Clock
from ..frozen_value import Value, value
from ..payloads import ExactCodec
from ..store import WorkflowExecutionStore
from ..watch import LoopWatch

if TYPE_CHECKING:
    from .lease_keeper import LeaseKeeper
    from .step_threads import StepThreads

__all__ = ["DriverSettings"]


@value
class DriverSettings(Value):
    """The objects and options that all drivers of a runtime share."""

    store: WorkflowExecutionStore
    clock: Clock
    codec: ExactCodec
    lease_ms: int
    rng: random.Random
    threads: StepThreads | None
    """Threads on which plain functions run; `None` in a Python without threads."""
    watch: LoopWatch
    checks_replay: bool = False
    """True if each run is replayed and compared after each write: in tests."""
    leases: LeaseKeeper | None
    """Keeper of the leases of all drives; `None` where each has its own, because its queries are limited."""
