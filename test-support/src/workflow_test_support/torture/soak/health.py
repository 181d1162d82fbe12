"""The verdict on the workers and the database over time. Pure, so that each rule can be tested."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median

from workflow_test_support.torture.soak.sampling import Sample

__all__ = ["Course", "errors_in", "find_health_problems", "percentile", "read_levels"]

WARM_UP_S = 120.0
"""Time after which a process or a table has its shape."""
_LONG_ENOUGH_S = 120.0
"""Time after that from which on growth means something."""
_MEMORY_FACTOR, _MEMORY_KIB = 1.15, 8 * 1024
_SIZE_FACTOR = 1.25
_SLOWER_FACTOR, _SLOWER_MS = 1.5, 20.0
_ENOUGH_RUNS = 500

_LINE = re.compile(r"^(DEBUG|INFO|WARNING|ERROR|CRITICAL) [\d-]+ [\d:,]+ (\d+) ")


@dataclass(frozen=True, kw_only=True)
class Course:
    """The measurements of a soak, over time."""

    samples: Sequence[Sample]
    max_sessions: int
    """The most sessions of workers and client in all."""
    latencies_ms: Mapping[int, Sequence[float]]
    """By minute from the beginning, how long runs that never wait took from their creation to their end."""
    log: Sequence[str]
    """The lines of all workers."""

    @cached_property
    def warm_memory(self) -> Mapping[int, tuple[int, int, float]]:
        """The memory by worker process: KiB when it was warm, KiB at last, and the seconds between."""
        seen: defaultdict[int, list[tuple[float, int]]] = defaultdict(list)
        for sample in self.samples:
            for pid, kib in sample.memory.items():
                seen[pid].append((sample.at_s, kib))
        found = {}
        for pid, course in seen.items():
            warm = [point for point in course if point[0] >= course[0][0] + WARM_UP_S]
            if warm:
                found[pid] = (warm[0][1], warm[-1][1], warm[-1][0] - warm[0][0])
        return found


def find_health_problems(course: Course) -> list[str]:
    """List what grows, slows down or complains; empty means that all is well."""
    return [
        *_growing_memory(course),
        *_growing_tables(course),
        *_too_many_sessions(course),
        *_slowing_runs(course),
        *(f"logged: {line}" for line in errors_in(course.log)),
    ]


def read_levels(log: Sequence[str]) -> Counter[str]:
    """Count the lines of a log by level."""
    return Counter(match[1] for match in map(_LINE.match, log) if match)


def errors_in(log: Sequence[str]) -> list[str]:
    """Return the errors: whatever a soak does to workers, it is nothing that they may call an error."""
    return [line for line in log if (match := _LINE.match(line)) and match[1] in {"ERROR", "CRITICAL"}]


def percentile(values: Sequence[float], part: float) -> float:
    """Return the value that a part of all values does not exceed."""
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]


def _growing_memory(course: Course) -> Iterator[str]:
    for pid, (warm, last, seconds) in course.warm_memory.items():
        if seconds >= _LONG_ENOUGH_S and last > warm * _MEMORY_FACTOR + _MEMORY_KIB:
            yield f"worker {pid} grew from {warm} KiB to {last} KiB in {seconds:.0f} s"


def _growing_tables(course: Course) -> Iterator[str]:
    """Yield each table in which a run takes more the more runs there are."""
    warm = [sample for sample in course.samples if sample.at_s >= WARM_UP_S and sample.runs >= _ENOUGH_RUNS]
    if len(warm) < 2 or warm[-1].at_s - warm[0].at_s < _LONG_ENOUGH_S:
        return
    first = {table.name: table.total_bytes / warm[0].runs for table in warm[0].tables}
    for table in warm[-1].tables:
        per_run = table.total_bytes / warm[-1].runs
        if per_run > first[table.name] * _SIZE_FACTOR:
            yield f"{table.name} grew from {first[table.name]:.0f} to {per_run:.0f} bytes per run"


def _too_many_sessions(course: Course) -> Iterator[str]:
    most = max((sample.sessions for sample in course.samples), default=0)
    if most > course.max_sessions:
        yield f"{most} sessions were open at once; {course.max_sessions} should do"


def _slowing_runs(course: Course) -> Iterator[str]:
    """The middle of the last third of the minutes is near that of the first; a single minute may have had a kill."""
    # The first minute warms up, the last one is not whole.
    minutes = [percentile(values, 0.5) for _, values in sorted(course.latencies_ms.items())[1:-1]]
    third = len(minutes) // 3
    if third:
        before, after = median(minutes[:third]), median(minutes[-third:])
        if after > before * _SLOWER_FACTOR + _SLOWER_MS:
            yield f"half of the runs took {before:.0f} ms at first and {after:.0f} ms at last"
