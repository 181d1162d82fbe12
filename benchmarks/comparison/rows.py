"""What is measured, and who takes part: the table from which everything else follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

__all__ = ["CALIBRATIONS", "CONTENDERS", "ROWS", "Contender", "Row", "chosen"]

CALIBRATIONS: Mapping[str, str] = {
    "insert-1": "rows a second into PostgreSQL, committed one by one on one connection (asyncpg)",
    "insert-16": "the same on 16 connections of one process",
    "sqlite": "rows a second into a SQLite file, committed one by one (aiosqlite, WAL, synchronous=FULL)",
    "tasks": "Python functions a second that are awaited as tasks, each result to JSON and back",
}
"""Raw limits, by name."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A system in one set-up."""

    title: str
    environment: str
    """The environment that it runs in, which `environments` makes."""
    program: str
    """Its module in `contenders`, or its script."""
    about: str
    """How it is set up."""
    options: Mapping[str, Any] = field(default_factory=dict)
    haste: int = 1
    """By how much its backlog of jobs is longer than that of others."""
    is_whole: bool = True
    """False for a part of a system that does less than the others: it is shown, but nobody is measured against it."""

    @property
    def is_ours(self) -> bool:
        """True for this project, whatever commit and options."""
        return self.environment in {"ours", "before"}

    @property
    def is_peer(self) -> bool:
        """True for another system that does the same."""
        return self.is_whole and not self.is_ours


CONTENDERS: Mapping[str, Contender] = {
    "ours": Contender("workflow-runtime", "ours", "ours", "defaults; 16 connections"),
    "ours-uvloop": Contender(
        "workflow-runtime, uvloop", "ours", "ours", "on the event loop of uvloop", {"uvloop": True}
    ),
    "ours-separate": Contender(
        "workflow-runtime, `combine=False`", "ours", "ours", "each write a statement of its own", {"combine": False}
    ),
    "ours-before": Contender("workflow-runtime before", "before", "ours", "an earlier commit, the same set-up"),
    "absurd": Contender("Absurd", "absurd", "absurd", "async SDK; up to 16 clients with a connection each"),
    "absurd-sync": Contender("Absurd, sync", "absurd", "absurd", "synchronous SDK", {"sync": True}),
    "dbos": Contender("DBOS", "dbos", "dbos_transact", "async workflows; no telemetry"),
    "dbos-sync": Contender("DBOS, sync", "dbos", "dbos_transact", "sync workflows; no telemetry", {"sync": True}),
    "tanstack": Contender("TanStack Workflow", "tanstack", "tanstack.mjs", "Node; Drizzle on pg, 16 connections"),
    "langgraph": Contender(
        "LangGraph saver",
        "langgraph",
        "langgraph_savers",
        "calls of its checkpoint saver alone: no engine, no start, no end",
        is_whole=False,
    ),
    "pgqueuer": Contender(
        "PgQueuer", "pgqueuer", "pgqueuer_queue", "asyncpg; batches of 1, or of 10 (its default)", haste=4
    ),
    "procrastinate": Contender("Procrastinate", "procrastinate", "procrastinate_queue", "psycopg with its C library"),
    **{
        f"{name}-import": Contender(f"`{module}`", environment, "imports", "", {"module": module})
        for name, environment, module in (
            ("absurd", "absurd", "absurd_sdk"),
            ("dbos", "dbos", "dbos"),
            ("langgraph", "langgraph", "langgraph.checkpoint.postgres.aio"),
            ("pgqueuer", "pgqueuer", "pgqueuer"),
            ("procrastinate", "procrastinate", "procrastinate"),
            ("runtime", "ours", "workflow_runtime"),
            ("postgres", "ours", "workflow_store_postgres"),
        )
    },
    "runtime-import-before": Contender(
        "`workflow_runtime` before", "before", "imports", "", {"module": "workflow_runtime"}
    ),
    "postgres-import-before": Contender(
        "`workflow_store_postgres` before", "before", "imports", "", {"module": "workflow_store_postgres"}
    ),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One kind of work, done by several contenders in turns."""

    id: str
    title: str
    unit: str
    """What is counted, in the singular."""
    contenders: tuple[str, ...]
    calibration: str = ""
    """The raw limit that is measured before and after each of them; none where a contender measures its own floor."""
    workload: str = ""
    at_once: int = 1
    counted: int = 0
    """Units of the pass that counts statements and WAL; 0 where there is no server to count."""
    jobs_a_second: int = 0
    """What a backlog is sized for: more than any contender does."""
    options: Mapping[str, Any] = field(default_factory=dict)
    in_ms: bool = False
    """True if the figure is a time in milliseconds, of which less is better."""
    floor: str = ""
    """The floor that contenders measure themselves."""


OURS = ("ours", "ours-uvloop", "ours-separate", "ours-before")

ROWS: tuple[Row, ...] = (
    Row(
        "steps-1", "Durable steps on PostgreSQL, one run after another", "step",
        (*OURS, "absurd", "absurd-sync", "dbos", "dbos-sync", "tanstack", "langgraph"),
        "insert-1", "steps", counted=500,
    ),
    Row(
        "steps-16", "Durable steps on PostgreSQL, 16 runs at once", "step",
        (*OURS, "absurd", "dbos", "tanstack", "langgraph"), "insert-16", "steps", 16, counted=1_600,
    ),
    Row(
        "steps-64", "Durable steps on PostgreSQL, 64 runs at once", "step",
        (*OURS, "absurd", "dbos", "tanstack", "langgraph"), "insert-16", "steps", 64, counted=6_400,
    ),
    Row(
        "empty-1", "Empty runs on PostgreSQL, one after another", "run",
        (*OURS, "absurd", "absurd-sync", "dbos", "dbos-sync", "tanstack"), "insert-1", "empty", counted=100,
    ),
    Row(
        "jobs-1", "One-step jobs through one worker, one at a time", "job",
        ("ours", "ours-uvloop", "ours-before", "pgqueuer", "procrastinate", "absurd"),
        "insert-1", "jobs", 1, counted=300, jobs_a_second=2_500,
    ),
    Row(
        "jobs-16", "One-step jobs through one worker, 16 at a time", "job",
        (*OURS, "pgqueuer", "procrastinate", "absurd"), "insert-16", "jobs", 16, counted=1_600, jobs_a_second=5_000,
    ),
    Row(
        "jobs-64", "One-step jobs through one worker, 64 at a time", "job",
        (*OURS, "pgqueuer", "procrastinate", "absurd"), "insert-16", "jobs", 64, counted=3_200, jobs_a_second=5_000,
    ),
    Row(
        "start-1", "Starting runs or jobs, one after another", "start",
        ("ours", "ours-uvloop", "ours-before", "pgqueuer", "procrastinate", "absurd"),
        "insert-1", "start", counted=200,
    ),
    Row(
        "start-many", "Starting 1,000 runs or jobs with one call", "start",
        ("ours", "pgqueuer", "procrastinate"), "insert-1", "start-many", counted=5_000,
    ),
    Row(
        "sqlite-1", "Durable steps in a SQLite file, one run after another", "step",
        ("ours", "ours-separate", "ours-before", "dbos", "dbos-sync", "langgraph"),
        "sqlite", "steps", options={"store": "sqlite"},
    ),
    Row(
        "sqlite-64", "Durable steps in a SQLite file, 64 runs at once", "step",
        ("ours", "ours-separate", "ours-before", "dbos", "langgraph"),
        "sqlite", "steps", 64, options={"store": "sqlite"},
    ),
    Row(
        "memory-1", "Steps of the engine alone, in memory, one run after another", "step",
        ("ours", "ours-uvloop", "ours-before", "tanstack"), "tasks", "steps", options={"store": "memory"},
    ),
    Row(
        "memory-64", "Steps of the engine alone, in memory, 64 runs at once", "step",
        ("ours", "ours-uvloop", "ours-before", "tanstack"), "tasks", "steps", 64, options={"store": "memory"},
    ),
    Row(
        "signal", "From a signal to the handler's next line, in another process", "signal",
        ("ours", "ours-uvloop", "ours-before"), workload="signal", in_ms=True,
        floor="a bare NOTIFY to a listener in another process",
    ),
    Row(
        "import", "Import beyond asyncio", "import",
        (
            "postgres-import", "postgres-import-before", "runtime-import", "runtime-import-before",
            "absurd-import", "procrastinate-import", "pgqueuer-import", "langgraph-import", "dbos-import",
        ),
        workload="import", in_ms=True, floor="`import asyncio` alone",
    ),
)  # fmt: skip


def chosen(rows: set[str], contenders: set[str]) -> tuple[Row, ...]:
    """Return the rows with these ids, with these contenders alone; all of them where a set is empty.

    Raises:
        ValueError: An id is of no row, or of no contender.
    """
    unknown = sorted((rows - {row.id for row in ROWS}) | (contenders - CONTENDERS.keys()))
    if unknown:
        raise ValueError(f"unknown: {', '.join(unknown)}")
    kept = [_with(row, contenders) for row in ROWS if not rows or row.id in rows]
    return tuple(row for row in kept if row.contenders)


def _with(row: Row, contenders: set[str]) -> Row:
    if not contenders:
        return row
    names = tuple(name for name in row.contenders if name in contenders)
    return replace(row, contenders=names)
