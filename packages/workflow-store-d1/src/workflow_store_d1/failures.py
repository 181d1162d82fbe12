"""Errors of D1, translated into the contract's errors. It gives no codes, so the text decides.

The texts are those of D1's list of errors (https://developers.cloudflare.com/d1/observability/debug-d1/), and two that
the list lacks: what a database says while it is exported or imported, and the binding's own words about an answer that
is none of D1's, but a page of somebody on the way.
"""

from __future__ import annotations

import re

from .database import D1DatabaseError

__all__ = ["failure"]

_PREFIX = re.compile(r"^(?:Error: )?(?:D1_(?:[A-Z]+_)?ERROR: )?")

_NOT_STARTED = (
    "D1 DB is overloaded",
    "Cannot resolve D1 DB due to transient issue on remote node",
    "Currently processing a long-running",  # export or import
    "Exceeded maximum DB size",  # passes too, once space is freed
)
"""The batch never began. It may be sent again as it is."""

_CUT_OFF = (
    "Network connection lost",
    "Replica disconnected from primary",
    "Failed to parse body as JSON",
    "storage caused object to be reset",
    "which caused object to be reset",
    "reset because its code was updated",
    "internal error",
)
"""The batch was under way. Whether it was committed before is not known."""


def failure(text: str) -> D1DatabaseError:
    """Return the error that D1's words stand for.

    Args:
        text: The message of its error, with or without the prefixes that D1 and JavaScript put before it.
    """
    problem = _PREFIX.sub("", text, count=1)
    if any(words in problem for words in _NOT_STARTED):
        return D1DatabaseError(problem, unavailable=True)
    if any(words in problem for words in _CUT_OFF):
        return D1DatabaseError(problem, unavailable=True, outcome_unknown=True)
    return D1DatabaseError(problem)
