"""What is known after the audit: from the store, the journal, the report and the processes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from audit_packages.journal import JournalLine
from audit_packages.planting import Change

Step = tuple[str, str]
"""Run id and step id."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Everything that the verdict needs."""

    statuses: Mapping[str, str]
    """How each run ended."""
    recorded: Mapping[Step, int]
    """For each step in an event log: the number of the journal line that began the recorded execution."""
    journal: Sequence[JournalLine]
    kill_at: Sequence[int]
    killed: Sequence[int]
    """Process ids of the workers that SIGKILL ended."""
    report: Mapping[str, Any]
    """By distribution, as the collecting run wrote it."""
    direct: Mapping[str, Any]
    """By distribution, as the direct audit found it."""
    planted: frozenset[Change]

    @cached_property
    def executions(self) -> Mapping[Step, Sequence[tuple[int, int]]]:
        """For each step in the journal: the line number and the process id of each execution's beginning."""
        found: defaultdict[Step, list[tuple[int, int]]] = defaultdict(list)
        for number, line in enumerate(self.journal, start=1):
            if line.mark == "begin":
                found[line.run_id, line.step_id].append((number, line.pid))
        return found

    @property
    def repeated(self) -> frozenset[Step]:
        """The steps that were executed more than once."""
        return frozenset(step for step, executions in self.executions.items() if len(executions) > 1)
