"""The rounds: contenders take turns, each between two measurements of the raw limit that its rate is divided by."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from comparison.contenders.stopwatch import Task
from comparison.environments import Environments, SetupError
from comparison.processes import Conversation, FailedContenderError, converse
from comparison.results import Results, Score
from comparison.rows import CONTENDERS, Row
from comparison.server import Reading, Server

__all__ = ["Comparison", "Plan"]

READY_S = 120.0
"""The longest that a contender takes to become ready."""
SLOW_S = 120.0
"""The longest that a contender works beyond its time, or for its units."""
CALIBRATION_SHARE = 0.5
"""Time of a calibration, as a share of the time of a contender."""
BUSY_SHARE = 0.7
"""A raw limit below this share of what it usually is says that something else uses the machine."""
PAUSE_S = 2.0
"""Time to wait for a quieter machine before looking again."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured."""

    rows: Sequence[Row]
    rounds: int
    seconds: float
    patience_s: float = 0.0
    """How long to wait, in all, while something else uses the machine."""

    @property
    def turns(self) -> int:
        """All that is to be done, the count of statements included."""
        timed = sum(len(row.contenders) for row in self.rows) * self.rounds
        return timed + sum(len(row.contenders) for row in self.rows if row.counted)


class Comparison:
    """One run of a plan.

    Args:
        plan: What to measure.
        environments: Where contenders run.
        server: The server, which runs.
        results: What the figures are added to.
        say: Shows progress, a line at a time.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        plan: Plan,
        environments: Environments,
        server: Server,
        results: Results,
        say: Callable[[str], None],
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._plan = plan
        self._environments = environments
        self._server = server
        self._results = results
        self._say = say
        self._began = time.monotonic()
        self._done = 0
        self._patience_s = plan.patience_s
        self._pause = pause
        self._calibrator: Conversation | None = None

    def run(self) -> None:
        """Measure everything. What fails is noted in the results, and the others go on."""
        self._prepare()
        self._began = time.monotonic()
        with self._server.database() as dsn, tempfile.TemporaryDirectory(prefix="contender-") as folder:
            task = Task("raw", dsn=dsn, folder=folder)
            with converse(self._environments.get("ours"), "raw", task) as self._calibrator:
                self._calibrator.hear(READY_S)
                for number in range(self._plan.rounds):
                    for row in self._plan.rows:
                        self._take_turns(row, number)
        self._count()

    def _prepare(self) -> None:
        """Make all environments, so that no measurement waits for one. Who has none fails in its turns."""
        names = {CONTENDERS[name].environment for row in self._plan.rows for name in row.contenders}
        for name in sorted(names):
            self._say(f"environment: {name}")
            try:
                self._environments.get(name)
            except SetupError as error:
                self._say(f"FAILED: {error}")

    def _take_turns(self, row: Row, number: int) -> None:
        """Measure one row; each round another contender is the first."""
        start = number % len(row.contenders)
        before = self._calibrate(row)
        for name in (*row.contenders[start:], *row.contenders[:start]):
            score = self._results.score(row.id, name)
            taken = self._tried(score, row, seconds=self._plan.seconds)
            after = self._calibrate(row)
            if taken is not None:
                _add(score, *taken, (before + after) / 2)
                self._results.note_turn(before, after)
            before = after
            self._report(f"round {number + 1} of {self._plan.rounds}, {row.id}, {name}", _shown(score))

    def _calibrate(self, row: Row) -> float:
        """Measure the raw limit of a row, again if the machine is busy. What a contender does has no part in this."""
        if not row.calibration:
            return 0.0
        usual = self._results.calibrations.setdefault(row.calibration, [])
        rate = self._raw_rate(row.calibration)
        while usual and rate < BUSY_SHARE * statistics.median(usual) and self._patience_s > 0:
            self._say(f"the machine is busy: {rate:,.0f} a second, not {statistics.median(usual):,.0f}; waiting")
            self._patience_s -= PAUSE_S
            self._pause(PAUSE_S)
            rate = self._raw_rate(row.calibration)
        usual.append(rate)
        return rate

    def _raw_rate(self, limit: str) -> float:
        assert self._calibrator is not None
        self._calibrator.say(f"{limit} {self._plan.seconds * CALIBRATION_SHARE}")
        return float(self._calibrator.hear(READY_S)["rate"])

    def _count(self) -> None:
        """Count statements and WAL for a fixed number of units. No clock is read, so nothing else is slowed."""
        with self._server.counting():
            for row in self._plan.rows:
                for name in row.contenders if row.counted else ():
                    score = self._results.score(row.id, name)
                    taken = self._tried(score, row, units=row.counted)
                    if taken is not None and "units" in taken[0]:
                        answer, spent = taken
                        score.statements = spent.statements / answer["units"]
                        score.wal_bytes = spent.wal_bytes / answer["units"]
                    self._report(f"statements, {row.id}, {name}", _counted(score))

    def _tried(
        self, score: Score, row: Row, *, seconds: float = 0.0, units: int = 0
    ) -> tuple[dict[str, Any], Reading] | None:
        """Measure; a failure is noted, and there is nothing to add then."""
        try:
            return self._measure(row, score.contender, seconds, units)
        except (FailedContenderError, SetupError, OSError) as error:
            score.failure = score.failure or " ".join(str(error).split())[-400:]
            return None

    def _measure(self, row: Row, name: str, seconds: float, units: int) -> tuple[dict[str, Any], Reading]:
        """Let a contender work on a new database, and return what it did and what the server spent on it."""
        contender = CONTENDERS[name]
        environment = self._environments.get(contender.environment)
        self._results.versions[contender.environment] = dict(environment.versions)
        with self._server.database() as dsn, tempfile.TemporaryDirectory(prefix="contender-") as folder:
            options = {**row.options, **contender.options}
            backlog = units or int(seconds * row.jobs_a_second * contender.haste)
            task = Task(row.workload, row.at_once, seconds, units, backlog, dsn, folder, options)
            with converse(environment, contender.program, task) as conversation:
                conversation.hear(READY_S)
                before = self._server.read(dsn)
                conversation.say("go")
                answer = conversation.hear(seconds + SLOW_S)
                return answer, _between(before, self._server.read(dsn))

    def _report(self, title: str, outcome: str) -> None:
        """Say what was done, and how long the rest will take."""
        self._done += 1
        left_s = (time.monotonic() - self._began) / self._done * (self._plan.turns - self._done)
        self._say(f"[{left_s / 60:4.1f} min left] {title}: {outcome}")


def _add(score: Score, answer: dict[str, Any], spent: Reading, floor: float) -> None:
    """Add the figures of a round."""
    if "absent" in answer:
        score.absent = answer["absent"]
        return
    if "value" in answer:
        score.values.append(answer["value"])
        score.floors.append(answer["floor"])
        return
    score.values.append(answer.get("rate", answer["units"] / answer["seconds"]))
    score.floors.append(floor)
    score.client_us.append(answer["client_cpu_s"] / answer["units"] * 1e6)
    score.server_us.append(spent.cpu_s / answer["units"] * 1e6)


def _between(before: Reading, after: Reading) -> Reading:
    return Reading(after.cpu_s - before.cpu_s, after.wal_bytes - before.wal_bytes, after.statements - before.statements)


def _shown(score: Score) -> str:
    if score.failure or score.absent or not score.values:
        return _missing(score)
    return f"{score.values[-1]:,.1f}, {score.ratios[-1]:.3f} of the floor"


def _counted(score: Score) -> str:
    if score.failure or score.absent or score.statements is None or score.wal_bytes is None:
        return _missing(score)
    return f"{score.statements:.2f} statements, {score.wal_bytes:,.0f} bytes of WAL"


def _missing(score: Score) -> str:
    return f"FAILED: {score.failure}" if score.failure else score.absent or "nothing"
