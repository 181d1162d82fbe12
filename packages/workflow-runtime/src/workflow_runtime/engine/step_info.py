"""The facts that a step's body can ask for."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from dataclasses import dataclass

from ..errors import ConfigurationError

__all__ = ["StepInfo", "current_info", "make_step_info", "step_info"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """The facts that a step's body can ask about itself."""

    run_id: str
    step_id: str
    attempt: int
    """Number of the attempt, from 1. After a crash the attempt in flight is made again under the same number."""
    idempotency_key: str
    """Key that is the same for every attempt of this step of this run: pass it on to whatever must act once."""


current_info: ContextVar[StepInfo] = ContextVar("workflow_runtime_step")
"""Set around each attempt."""


def step_info() -> StepInfo:
    """Return the facts about the running step, to its body.

    Raises:
        ConfigurationError: Not called inside a step.
    """
    info = current_info.get(None)
    if info is None:
        raise ConfigurationError("step_info() can only be called inside a step")
    return info


def make_step_info(run_id: str, created_at_ms: int, step_id: str, attempt: int) -> StepInfo:
    """Return the facts about an attempt."""
    # The time of creation tells a run from an earlier one of the same id that was deleted.
    identity = f"{len(run_id)}:{run_id}:{created_at_ms}:{step_id}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return StepInfo(run_id=run_id, step_id=step_id, attempt=attempt, idempotency_key=key)
