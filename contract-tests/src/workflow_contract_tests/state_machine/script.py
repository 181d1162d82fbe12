"""Scripts: operations as values, in which symbols stand for what only a run of the script can tell, such as a token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..model import Model

__all__ = [
    "InboxSeen",
    "Leases",
    "LogEnd",
    "Operation",
    "Revision",
    "Script",
    "Symbol",
    "TickMoment",
    "TickToken",
    "Token",
    "Tokens",
    "Untaken",
    "resolve",
]

NO_TOKEN = "no-such-token"


class Tokens:
    """The tokens that one store, or the model, has given so far, by run or schedule, in the order of the claims."""

    def __init__(self) -> None:
        self._given: dict[tuple[str, str], list[str]] = {}

    def learn(self, kind: str, of: str, token: str) -> int:
        """Return the number of the claim that gave this token. One that is new belongs to a new claim (FENCE-3)."""
        given = self._given.setdefault((kind, of), [])
        if token not in given:
            given.append(token)
        return given.index(token)

    def find(self, kind: str, of: str, back: int) -> str:
        """Return the token of the newest claim, or of one before it."""
        given = self._given.get((kind, of), [])
        return given[-1 - back] if back < len(given) else NO_TOKEN


class Symbol:
    """The base of everything that stands for a value of the moment."""

    def value(self, model: Model, tokens: Tokens) -> Any:
        """Return the value now."""
        raise NotImplementedError


@dataclass(frozen=True)
class Token(Symbol):
    """The lease token of a run's newest claim, or a stale one of so many claims before."""

    run_id: str
    back: int = 0

    def value(self, model: Model, tokens: Tokens) -> str:
        """Return the token."""
        return tokens.find("run", self.run_id, self.back)


@dataclass(frozen=True)
class Leases(Symbol):
    """Runs with lease tokens."""

    tokens: tuple[Token, ...]

    def value(self, model: Model, tokens: Tokens) -> tuple[tuple[str, str], ...]:
        """Return the pairs."""
        return tuple((token.run_id, token.value(model, tokens)) for token in self.tokens)


@dataclass(frozen=True)
class TickToken(Symbol):
    """The lease token of a schedule's newest claimed tick, or a stale one."""

    schedule_id: str
    back: int = 0

    def value(self, model: Model, tokens: Tokens) -> str:
        """Return the token."""
        return tokens.find("tick", self.schedule_id, self.back)


@dataclass(frozen=True)
class LogEnd(Symbol):
    """The length of a run's log, or a number beside it."""

    run_id: str
    plus: int = 0

    def value(self, model: Model, tokens: Tokens) -> int:
        """Return the length; 0 for an unknown run."""
        run = model.state.runs.get(self.run_id)
        return max(0, self.plus + (0 if run is None else len(run.log)))


@dataclass(frozen=True)
class Untaken(Symbol):
    """The numbers of a run's first inbox entries that are not taken."""

    run_id: str
    count: int

    def value(self, model: Model, tokens: Tokens) -> tuple[int, ...]:
        """Return at most `count` of them."""
        run = model.state.runs.get(self.run_id)
        return () if run is None else tuple(entry.inbox_seq for entry in run.inbox.untaken()[: self.count])


@dataclass(frozen=True)
class InboxSeen(Symbol):
    """The number of a run's newest inbox entry, or an older one."""

    run_id: str
    back: int = 0

    def value(self, model: Model, tokens: Tokens) -> int:
        """Return the number."""
        run = model.state.runs.get(self.run_id)
        return 0 if run is None else max(0, len(run.inbox.entries) - self.back)


@dataclass(frozen=True)
class Revision(Symbol):
    """The revision of a schedule, or an older one."""

    schedule_id: str
    back: int = 0

    def value(self, model: Model, tokens: Tokens) -> int:
        """Return the revision; 1 for an unknown schedule."""
        schedule = model.state.schedules.get(self.schedule_id)
        return 1 if schedule is None else max(1, schedule.revision - self.back)


@dataclass(frozen=True)
class TickMoment(Symbol):
    """The moment of a schedule's claimed tick, or one so much later."""

    schedule_id: str
    otherwise: int
    plus: int = 0

    def value(self, model: Model, tokens: Tokens) -> int:
        """Return the moment; `otherwise` when no tick is claimed."""
        schedule = model.state.schedules.get(self.schedule_id)
        claim = None if schedule is None else schedule.claim
        return self.plus + (self.otherwise if claim is None else claim.fire_at_ms)


@dataclass(frozen=True)
class Operation:
    """One call of a verb."""

    verb: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    again: bool = False
    """True for a repeat after a lost answer: it sends what the operation of the same `operation_id` sent."""
    reads: bool = False
    """True for a part of a full comparison."""


Script: TypeAlias = tuple[Operation, ...]


def resolve(arguments: Mapping[str, Any], model: Model, tokens: Tokens) -> dict[str, Any]:
    """Return arguments with the value of the moment in place of each symbol."""
    return {
        name: value.value(model, tokens) if isinstance(value, Symbol) else value for name, value in arguments.items()
    }
