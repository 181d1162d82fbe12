"""Measurements of a store's verbs, and their tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

__all__ = ["AT_ONCE", "Bench", "Measurement", "Timing", "timing_of"]

AT_ONCE = 16
"""The callers of the second timing of each verb."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The times that calls of one verb took."""

    calls: int
    per_second: float
    p50_ms: float
    p99_ms: float

    def __str__(self) -> str:
        return f"{self.per_second:,.0f}/s, {self.p50_ms:.2f}, {self.p99_ms:.2f}"


def timing_of(times_s: Sequence[float], busy_s: float) -> Timing:
    """Return the timing of calls.

    Args:
        times_s: The time that each call took.
        busy_s: The time in which there were any, which is less than their sum if they overlap.
    """
    ordered = sorted(times_s)
    return Timing(
        calls=len(ordered),
        per_second=len(ordered) / busy_s,
        p50_ms=1_000 * ordered[len(ordered) // 2],
        p99_ms=1_000 * ordered[len(ordered) * 99 // 100],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """The timings of one verb of one store."""

    store: str
    verb: str
    stored: int
    """The number of runs that lay in the store."""
    alone: Timing | None = None
    """Calls one after another."""
    at_once: Timing | None = None
    """Calls by many callers at once, spread over the handles."""
    problem: str | None = None
    """The error because of which there are no timings."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """The measurements of a store, with those of others that were taken beside it."""

    store: str = ""
    """The name of the measured store in the measurements."""
    measurements: tuple[Measurement, ...] = ()
    left_out: Mapping[str, str] = field(default_factory=dict)
    """The stores that were not measured, each with the reason."""
    problem: str | None = None
    """The error that ended the bench."""

    def lines(self) -> list[str]:
        """Return the tables as Markdown: that of the store, and one for each of the others."""
        if self.problem is not None:
            return [f"not measured: {self.problem}"]
        lines = ["Times in ms: half of the calls took no longer, 99 of 100 took no longer.", ""]
        others = dict.fromkeys(one.store for one in self.measurements if one.store != self.store)
        heads = ["verb", "one after another", f"{AT_ONCE} at once", *(f"/ {other}" for other in others), *self._sizes()]
        lines += _table(heads, self._rows(list(others)))
        for other in others:
            rows = ([one.verb, *_timings(one)] for one in self._of(other))
            lines += ["", *_table([other, "one after another", f"{AT_ONCE} at once"], rows)]
        return [*lines, "", *(f"Without {other}: {reason}." for other, reason in self.left_out.items())]

    def _of(self, store: str) -> list[Measurement]:
        """Return the measurements of one store among the fewest runs."""
        found = [one for one in self.measurements if one.store == store]
        return [one for one in found if one.stored == found[0].stored]

    def _grown(self) -> dict[str, Measurement]:
        """Return the measurements of the store among many runs, by their verbs."""
        few = self._of(self.store)
        return {one.verb: one for one in self.measurements if one.store == self.store and one not in few}

    def _sizes(self) -> list[str]:
        few, grown = self._of(self.store), list(self._grown().values())
        return [f"{grown[0].stored:,} runs / {few[0].stored:,}"] if grown else []

    def _rows(self, others: Sequence[str]) -> Iterator[list[str]]:
        grown = self._grown()
        beside = {(one.store, one.verb): one for other in others for one in self._of(other)}
        for one in self._of(self.store):
            row = [one.verb, *_timings(one), *(_ratio(one, beside.get((other, one.verb))) for other in others)]
            yield [*row, _ratio(grown.get(one.verb), one)] if grown else row


def _timings(one: Measurement) -> list[str]:
    if one.problem is not None:
        return [one.problem, ""]
    return [str(timing) if timing is not None else "no time left" for timing in (one.alone, one.at_once)]


def _ratio(one: Measurement | None, other: Measurement | None) -> str:
    """Return how many times as long a call takes, half of the calls that come one after another."""
    if one is None or other is None or one.alone is None or other.alone is None:
        return ""
    ratio = one.alone.p50_ms / max(other.alone.p50_ms, 1e-6)
    return f"{ratio:.1f}" if ratio >= 1 else f"{ratio:.2f}"


def _table(heads: Sequence[str], rows: Iterator[list[str]]) -> list[str]:
    cells = ([text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (heads, *rows))
    head, *body = (f"| {' | '.join(row)} |" for row in cells)
    return [head, "|---" * len(heads) + "|", *body]
