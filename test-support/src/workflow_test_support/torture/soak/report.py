"""The tables that a soak prints."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

from workflow_test_support.torture.client import Client
from workflow_test_support.torture.disturbance import Chaos
from workflow_test_support.torture.errand_verdict import Evidence
from workflow_test_support.torture.soak.customer import Customer
from workflow_test_support.torture.soak.health import Course, percentile, read_levels
from workflow_test_support.torture.soak.sampling import Sample
from workflow_test_support.torture.soak.verdict import Deposition

__all__ = ["print_report"]


def print_report(
    deposition: Deposition, evidence: Evidence, course: Course, chaos: Chaos, customer: Customer, client: Client
) -> None:
    """Print all figures."""
    for lines in (
        _runs(deposition, evidence, client, customer),
        _disturbances(chaos, evidence),
        _ticks(deposition),
        _minutes(course),
        _memory(course),
        _tables(course.samples[-1]),
        _log(course),
    ):
        print("\n".join(lines), end="\n\n")


def _runs(deposition: Deposition, evidence: Evidence, client: Client, customer: Customer) -> Iterator[str]:
    statuses = Counter(str(head["status"]) for head in deposition.heads.values())
    yield f"runs: {len(deposition.heads)} {dict(statuses)}, {sum(map(len, deposition.logs.values()))} events"
    yield f"errands: {len(client.inputs)}, {sum(client.signals.values())} signals acknowledged {dict(client.answers)}"
    yield f"orders: {len(customer.ordered)}, decisions {dict(customer.answers)}"
    yield f"payments: {len(deposition.payments)}; calls repeated: {client.repeats + customer.repeats}"
    causes = Counter(str(cause) for _, _, cause in evidence.unrecorded)
    yield f"steps of errands: {len(evidence.recorded)} recorded, cut off: {dict(causes)}"


def _disturbances(chaos: Chaos, evidence: Evidence) -> Iterator[str]:
    workforce = chaos.workforce
    frozen = ", ".join(f"{freeze.ended - freeze.begun:.1f} s" for freeze in workforce.frozen)
    yield (
        f"disturbances: {len(evidence.killed)} kills, {workforce.drained} drains, "
        f"{len(workforce.frozen)} freezes ({frozen}), {chaos.terminated} sessions terminated"
    )


def _ticks(deposition: Deposition) -> Iterator[str]:
    yield "schedule    settled  started  skipped  buffered  late ms: p50    p99    max"
    for schedule in deposition.schedules:
        entries = deposition.ticks.get(schedule.id, ())
        outcomes = Counter(entry.outcome for entry in entries)
        late = [e.at_ms - e.tick_ms for e in entries if e.source == "due" and e.tick_ms is not None] or [0]
        yield (
            f"{schedule.id:<10}  {len(deposition.due(schedule.id)):7}  {outcomes['started']:7}  "
            f"{outcomes['skipped']:7}  {outcomes['buffered']:8}  {percentile(late, 0.5):12} "
            f"{percentile(late, 0.99):6} {max(late):6}"
        )


def _minutes(course: Course) -> Iterator[str]:
    yield "minute  runs that never wait: p50 ms  p99 ms   sessions  dead tuples  MiB in all  MiB of workers"
    for minute, values in sorted(course.latencies_ms.items()):
        samples = [sample for sample in course.samples if minute * 60 <= sample.at_s < minute * 60 + 60]
        samples = samples or [course.samples[-1]]
        last = samples[-1]
        memory = max(last.memory.values(), default=0) / 1024
        yield (
            f"{minute:6}  {percentile(values, 0.5):27.0f} {percentile(values, 0.99):7.0f}  "
            f"{max(sample.sessions for sample in samples):9} {sum(table.dead for table in last.tables):12} "
            f"{sum(table.total_bytes for table in last.tables) / 2**20:11.1f} {memory:15.1f}"
        )


def _memory(course: Course) -> Iterator[str]:
    yield "worker      MiB at two minutes  MiB at its end  seconds between"
    for pid, (warm, last, seconds) in course.warm_memory.items():
        yield f"{pid:<10}  {warm / 1024:18.1f}  {last / 1024:14.1f}  {seconds:15.0f}"


def _tables(sample: Sample) -> Iterator[str]:
    yield "table                          bytes a run: table  indexes   dead tuples   updates   HOT"
    for table in sample.tables:
        hot = f"{table.hot_updated / table.updated:.0%}" if table.updated else "-"
        yield (
            f"{table.name:<30} {table.table_bytes / sample.runs:17.0f} {table.index_bytes / sample.runs:8.0f} "
            f"{table.dead:13} {table.updated:9}  {hot:>4}"
        )


def _log(course: Course) -> Sequence[str]:
    return [f"log lines by level: {dict(read_levels(course.log))}"]
