"""The facts that a step's body can ask for."""

from __future__ import annotations

import hashlib
from contextvars import ContextVar
from typing import NamedTuple

from ..errors import ConfigurationError
from ..frozen_value import Value, value

__all__ = ["StepAttempt", "StepInfo", "current_attempt", "step_info"]


@value
class StepInfo(Value):
    """The facts that a step's body can ask about itself."""

    run_id: str
    step_id: str
    attempt: int
    """Number of the attempt, from 1. After a crash the attempt in flight is made again under the same number."""
    idempotency_key: str
    """Key that is the same for every attempt of this step of this run: pass it on to whatever must act once."""


class StepAttempt(NamedTuple):
    """One attempt of a step. Most bodies ask for nothing, so what they could ask for is made when one does."""

    run_id: str
    created_at_ms: int
    """Time at which the run was created."""
    step_id: str
    number: int

    def info(self) -> StepInfo:
        """Return the facts for the step's body."""
        # The time of creation tells a run from an earlier one of the same id that was deleted.
        identity = f"{len(self.run_id)}:{self.run_id}:{self.created_at_ms}:{self.step_id}"
        key = hashlib.sha256(identity.encode()).hexdigest()[:32]
        return StepInfo(run_id=self.run_id, step_id=self.step_id, attempt=self.number, idempotency_key=key)


current_attempt: ContextVar[StepAttempt] = ContextVar("workflow_runtime_step")
"""Set around each attempt."""


def step_info() -> StepInfo:
    """Return the facts about the running step, to its body.

    Raises:
        ConfigurationError: Not called inside a step.
    """
    attempt = current_attempt.get(None)
    if attempt is None:
        raise ConfigurationError("step_info() can only be called inside a step")
    return attempt.info()
