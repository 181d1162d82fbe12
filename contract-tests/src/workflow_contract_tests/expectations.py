"""The expectation of an error, without a test framework."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

__all__ = ["Refusal", "refused"]


@dataclass
class Refusal:
    """The expected error, once it was raised."""

    error: Any = None


@contextmanager
def refused(kind: type[Exception], what: str) -> Iterator[Refusal]:
    """Assert that the block raises an error of this kind.

    Args:
        kind: The error's class.
        what: The call in words, for the message when it is accepted.
    """
    refusal = Refusal()
    try:
        yield refusal
    except kind as error:
        refusal.error = error
    else:
        raise AssertionError(f"{what} was accepted; it must raise {kind.__name__}")
