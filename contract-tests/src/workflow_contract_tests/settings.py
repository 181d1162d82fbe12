"""Counts and timeouts of the races, scaled by `WORKFLOW_CONTRACT_SCALE`."""

from __future__ import annotations

import os

__all__ = [
    "CASE_TIMEOUT_S",
    "PROCESSES",
    "PROCESS_TIMEOUT_S",
    "RACE_CLAIMERS",
    "RACE_ROUNDS",
    "RACE_RUNS",
    "SCALE",
    "SEED",
    "case_timeout_s",
    "scaled",
]

SCALE = float(os.environ.get("WORKFLOW_CONTRACT_SCALE", "1"))
"""Multiplies every count below: 10 for a long night. Less than 1 is for a quick look, and certifies nothing."""


def scaled(count: int) -> int:
    """Return the scaled count. It is 2 at least, or there is no race."""
    return max(2, round(count * SCALE))


def case_timeout_s(scale: float) -> float:
    """Return how long a case may take at this scale."""
    return 60 * max(1.0, scale)


SEED = int(os.environ.get("WORKFLOW_CONTRACT_SEED", "20240229"))
"""Seeds every random choice."""
RACE_ROUNDS = scaled(60)
RACE_RUNS = scaled(90)
RACE_CLAIMERS = 6
PROCESSES = 3
CASE_TIMEOUT_S = case_timeout_s(SCALE)
PROCESS_TIMEOUT_S = 30 * max(1.0, SCALE)
