"""What the demo prints: progress, the table, the timeline of one run."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from workflow_runtime.store import RunTimeline, TimelineEntry

from audit_packages.environment import run_id_of
from audit_packages.evidence import Evidence

_SHOWN_ENTRIES = 12
"""Of a timeline, at its beginning and at its end."""
_DETAIL_WIDTH = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Where the audit stands."""

    ended: int
    runs: int
    approvals: int
    kills: int


class ProgressLine:
    """Progress on standard error: one line that changes on a terminal, a line a second elsewhere."""

    def __init__(self, journal: Path, kills: int, stream: TextIO = sys.stderr) -> None:
        self._journal = journal
        self._kills = kills
        self._stream = stream
        self._begun = self._last_shown = time.monotonic()

    def show(self, progress: Progress) -> None:
        """Show it, at most once a second unless it is the end."""
        now = time.monotonic()
        done = progress.ended == progress.runs
        if not done and now - self._last_shown < 1:
            return
        self._last_shown = now
        text = (
            f"{now - self._begun:5.1f} s  runs ended {progress.ended}/{progress.runs}"
            f"  steps executed {self._executed()}  kills {progress.kills}/{self._kills}  approvals {progress.approvals}"
        )
        terminal = self._stream.isatty()
        print(text, end="\r" if terminal and not done else "\n", file=self._stream, flush=True)

    def _executed(self) -> int:
        return self._journal.read_bytes().count(b'"mark": "end"') if self._journal.exists() else 0


def render_table(evidence: Evidence, wall_s: float) -> str:
    """Write the table of the outcome."""
    finished = sum(status == "finished" for status in evidence.statuses.values())
    in_flight = sum(len(executions) - 1 for executions in evidence.executions.values())
    rows: Mapping[str, object] = {
        "runs finished": f"{finished} of {len(evidence.statuses)}",
        "steps recorded": len(evidence.recorded),
        "steps executed, by the journal": sum(map(len, evidence.executions.values())),
        "steps executed more than once": f"{len(evidence.repeated)} ({in_flight} executions cut off by a kill)",
        "recorded steps that ran again": sum(
            any(begun > line for begun, _ in evidence.executions.get(step, ()))
            for step, line in evidence.recorded.items()
        ),
        "kills survived": f"{len(evidence.killed)} (after journal lines {_join(evidence.kill_at)})",
        "planted changes reported": f"{_found(evidence)} of {len(evidence.planted)}",
        "wall time": f"{wall_s:.1f} s",
    }
    width = max(map(len, rows))
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows.items())


def choose_run(evidence: Evidence) -> str:
    """Choose a run that waited for a decision; better one that a kill cut off, and among those the shortest."""
    labels = sorted({change.label for change in evidence.planted} or evidence.report.keys())
    repeated = {run_id for run_id, _ in evidence.repeated}
    return min(
        map(run_id_of, labels),
        key=lambda run_id: (run_id not in repeated, sum(step[0] == run_id for step in evidence.recorded)),
    )


def render_timeline(timeline: RunTimeline) -> str:
    """Write a timeline; the middle of a long one is left out."""
    entries = timeline.entries
    begun = entries[0].at_ms
    lines = [_render_entry(entry, begun) for entry in entries]
    left_out = len(lines) - 2 * _SHOWN_ENTRIES
    if left_out > 1:
        lines[_SHOWN_ENTRIES:-_SHOWN_ENTRIES] = [f"        … {left_out} more …"]
    return "\n".join(lines)


def _render_entry(entry: TimelineEntry, begun_ms: int) -> str:
    detail = entry.detail or ""
    if len(detail) > _DETAIL_WIDTH:
        detail = detail[: _DETAIL_WIDTH - 1] + "…"
    seconds = (entry.at_ms - begun_ms) / 1000
    return f"  {seconds:7.3f} s  {entry.source:<5}  {entry.what:<20}  {entry.step_id or '':<17}  {detail}".rstrip()


def _join(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def _found(evidence: Evidence) -> int:
    return sum(
        {"path": change.path, "problem": change.problem} in evidence.report.get(change.label, {}).get("findings", ())
        for change in evidence.planted
    )
