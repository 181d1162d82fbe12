"""The profiles: in which layer the CPU time of a unit goes, before and now.

Each cell of the table is microseconds of the contender's CPU time: the samples of a layer, scaled to the CPU time of a
unit. It is a pass of its own, so that sampling is in no other figure.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comparison.contenders.sampling import LAYERS
from comparison.contenders.stopwatch import Task
from comparison.environments import Environments
from comparison.processes import converse
from comparison.rounds import READY_S, SLOW_S
from comparison.rows import CONTENDERS, Row
from comparison.server import Server

__all__ = ["microseconds", "show_profiles"]

PROFILED = ("ours-before", "ours")
COLUMNS = (*LAYERS, "rest")
WORKLOADS = {"steps", "empty", "start", "jobs"}


def show_profiles(
    rows: Sequence[Row], environments: Environments, server: Server, seconds: float, say: Callable[[str], None]
) -> None:
    """Profile each kind of work, and say the lines of a Markdown table."""
    head = ["Work", "µs of CPU a", "", "all", *COLUMNS]
    say("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for row in rows:
        for name in PROFILED if row.workload in WORKLOADS else ():
            say(_line(row, name, _profile(environments, server, row, name, seconds)))


def _profile(environments: Environments, server: Server, row: Row, name: str, seconds: float) -> dict[str, Any]:
    """Return what a contender answers when it is profiled in one row."""
    contender = CONTENDERS[name]
    with server.database() as dsn, tempfile.TemporaryDirectory(prefix="contender-") as folder:
        options = {**row.options, **contender.options, "profile": True}
        task = Task(row.workload, row.at_once, seconds, 0, int(seconds * row.jobs_a_second), dsn, folder, options)
        with converse(environments.get(contender.environment), contender.program, task) as conversation:
            conversation.hear(READY_S)
            conversation.say("go")
            return conversation.hear(seconds + SLOW_S)


def microseconds(answer: Mapping[str, Any]) -> dict[str, float]:
    """Return the CPU time of a unit by layer."""
    unit_us = answer["client_cpu_s"] / answer["units"] * 1e6
    samples = answer["samples"]
    taken = sum(samples.values()) or 1
    return {layer: samples.get(layer, 0) / taken * unit_us for layer in COLUMNS}


def _line(row: Row, name: str, answer: Mapping[str, Any]) -> str:
    """Return one line of the table."""
    spent = microseconds(answer)
    when = "before" if name == "ours-before" else "now"
    cells = [f"{spent[layer]:.0f}" for layer in COLUMNS]
    return " | ".join([f"| {row.title}", row.unit, when, f"**{sum(spent.values()):.0f}**", *cells]) + " |"
