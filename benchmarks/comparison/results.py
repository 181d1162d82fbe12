"""Results of a comparison: what was measured in each round, as it is kept in a file."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["DISTURBED", "Results", "Score", "Spread", "load", "save"]


DISTURBED = 1.5
"""By which factor the raw limit changes during a turn in which something else took the machine."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and range of a figure over the rounds."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread | None:
        """Return the spread of some figures; None where there are none."""
        if not figures:
            return None
        return cls(statistics.median(figures), min(figures), max(figures))


@dataclass(slots=True)
class Score:
    """One contender in one row: lists have a figure of each round."""

    contender: str
    values: list[float] = field(default_factory=list)
    """Units per second, or milliseconds."""
    floors: list[float] = field(default_factory=list)
    """The raw limit just before and just after, their mean; or the floor that the contender measured itself."""
    client_us: list[float] = field(default_factory=list)
    """CPU time of the contender for a unit, in microseconds."""
    server_us: list[float] = field(default_factory=list)
    """CPU time of the database server for a unit, in microseconds."""
    statements: float | None = None
    """Statements for a unit."""
    wal_bytes: float | None = None
    """Bytes of write-ahead log for a unit."""
    absent: str = ""
    """Why this version has nothing of the kind."""
    failure: str = ""
    """Why it could not be measured."""

    @property
    def ratios(self) -> list[float]:
        """Each value over its floor."""
        return [value / floor for value, floor in zip(self.values, self.floors, strict=True)]

    @property
    def ratio(self) -> Spread | None:
        """Median and range of the ratios."""
        return Spread.of(self.ratios)


@dataclass(slots=True)
class Results:
    """Everything that a page is made of."""

    date: str
    rounds: int
    seconds: float
    """How long a contender works in each round."""
    machine: dict[str, str]
    versions: dict[str, dict[str, str]] = field(default_factory=dict)
    """By environment, the versions of packages."""
    calibrations: dict[str, list[float]] = field(default_factory=dict)
    """Every measurement of each raw limit, in order."""
    turns: int = 0
    """How often a contender worked between two measurements of its raw limit."""
    disturbed: int = 0
    """How many of these turns were disturbed."""
    rows: dict[str, list[Score]] = field(default_factory=dict)
    """By row, the contenders in the order of the table."""

    def score(self, row: str, contender: str) -> Score:
        """Return what is kept for a contender in a row, which is made when it is not there."""
        scores = self.rows.setdefault(row, [])
        for score in scores:
            if score.contender == contender:
                return score
        scores.append(Score(contender))
        return scores[-1]

    def note_turn(self, before: float, after: float) -> None:
        """Note that a contender worked, and what the raw limit was before and after."""
        self.turns += 1
        self.disturbed += max(before, after) >= DISTURBED * min(before, after)

    @property
    def failures(self) -> list[str]:
        """What could not be measured."""
        return [
            f"{row}, {score.contender}: {score.failure}"
            for row, scores in self.rows.items()
            for score in scores
            if score.failure
        ]


def save(results: Results, path: Path) -> None:
    """Write results as JSON that people can compare line by line."""
    path.write_text(json.dumps(_rounded(asdict(results)), indent=1) + "\n", encoding="utf-8")


def load(path: Path) -> Results:
    """Read what `save` wrote."""
    facts = json.loads(path.read_text(encoding="utf-8"))
    rows = {row: [Score(**score) for score in scores] for row, scores in facts.pop("rows").items()}
    return Results(**facts, rows=rows)


def _rounded(value: Any) -> Any:
    """Keep five digits of each number: more is noise."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case Mapping():
            return {name: _rounded(one) for name, one in value.items()}
        case list():
            return [_rounded(one) for one in value]
        case _:
            return value
