"""The ways in which a handler ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Aborted", "Errored", "Finished", "Outcome"]


@dataclass(frozen=True, slots=True)
class Finished:
    """The handler returned."""

    output: Any


@dataclass(frozen=True, slots=True)
class Errored:
    """The handler raised."""

    error: BaseException


@dataclass(frozen=True, slots=True)
class Aborted:
    """The handler ended by the cancellation that was asked for."""


Outcome = Finished | Errored | Aborted
