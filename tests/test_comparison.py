"""The comparison with other systems: its arithmetic, its page, and a short one that contains ourselves alone."""

from __future__ import annotations

import os
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from comparison import __main__ as command
from comparison import machine, page
from comparison.charts import chart
from comparison.contenders import stopwatch
from comparison.contenders.sampling import layer_of
from comparison.contenders.stopwatch import Task
from comparison.environments import Environment, Environments, SetupError, stamped
from comparison.processes import FailedContenderError, converse
from comparison.profiles import show_profiles
from comparison.report import duel, figure, tables
from comparison.results import Results, Score, Spread, load, save
from comparison.rounds import Comparison, Plan
from comparison.rows import CALIBRATIONS, CONTENDERS, ROWS, Row, chosen
from comparison.server import Reading, Server

BENCHMARKS = Path(page.__file__).parents[1]
HERE = Environment((sys.executable,), {}, {"PYTHONPATH": os.pathsep.join([str(BENCHMARKS), *filter(None, sys.path)])})
"""This process's own environment, where a contender of ours can run too."""
STEPS = next(row for row in ROWS if row.id == "steps-1")
SIGNAL = next(row for row in ROWS if row.id == "signal")


def results_of(*scores: Score, row: Row = STEPS) -> Results:
    return Results("2026-11-30", 3, 0.8, {"cores": "2"}, rows={row.id: list(scores)})


OURS = Score("ours", [200.0, 300.0, 100.0], [400.0, 400.0, 400.0], [5.0, 6.0, 7.0], [1.0, 2.0, 3.0], 1.2, 1_200.4)
BEFORE = Score("ours-before", [100.0, 100.0, 100.0], [400.0, 400.0, 400.0], [9.0], [3.0], 1.2, 1_200.0)
PEER = Score("absurd", [100.0, 50.0, 150.0], [400.0, 400.0, 400.0], [50.0], [20.0], 2.4, 1_300.0)
SAVER = Score("langgraph", [900.0], [400.0])


# Arithmetic.


def test_spread_is_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 10.0]) == Spread(3.0, 1.0, 10.0)
    assert Spread.of([]) is None


def test_ratio_is_of_each_round() -> None:
    """A round whose raw limit was half as high counts for twice as much."""
    score = Score("ours", [100.0, 100.0], [400.0, 200.0])

    assert score.ratios == [0.25, 0.5]
    assert score.ratio == Spread(0.375, 0.25, 0.5)


def test_ours_is_compared_with_the_best_peer_that_does_the_same() -> None:
    """A saver without an engine is quicker, and is left out; so is our own earlier commit."""
    slow = Score("dbos", [10.0], [400.0])

    assert duel(STEPS, [OURS, BEFORE, slow, PEER, SAVER]) == (2.0, PEER)
    assert duel(STEPS, [OURS, BEFORE, SAVER]) is None
    assert duel(STEPS, [Score("ours", failure="it broke"), PEER]) is None


def test_of_times_the_shorter_one_wins() -> None:
    row = next(row for row in ROWS if row.id == "import")
    ours, quick, slow = (
        Score("postgres-import", [50.0], [20.0]),
        *(Score(name, [value], [20.0]) for name, value in (("absurd-import", 40.0), ("dbos-import", 300.0))),
    )

    assert duel(row, [ours, slow, quick]) == (0.8, quick)


@pytest.mark.parametrize(
    ("value", "text"), [(1234.4, "1,234"), (99.96, "100"), (14.49, "14.5"), (0.04127, "0.0413"), (1.0, "1.00")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert figure(value) == text


# Tables and charts.


def test_table_shows_medians_ranges_and_counts() -> None:
    text = tables(results_of(OURS, BEFORE, PEER))

    cells = "200 [100–300] | 0.500 [0.250–0.750] | 1.20 | 1,200 | 2.00 [1.00–3.00] | 6.00 [5.00–7.00]"
    assert f"| workflow-runtime | {cells} |" in text
    assert "Other programs" not in text
    assert f"| [{STEPS.title}](#steps-1) | 0.500 | 0.250 | 0.250 (Absurd) | **2.00** |" in text
    assert "Where a peer is faster" not in text


def test_table_says_where_a_peer_is_faster() -> None:
    ahead = Score("absurd", [400.0], [400.0])

    text = tables(results_of(OURS, ahead))

    assert f"### Where a peer is faster\n\n- {STEPS.title}: Absurd is 2.00 times as fast." in text


def test_table_says_what_failed_and_what_is_absent() -> None:
    broken = Score("dbos", [10.0], [400.0], failure="it ended | with 1")
    missing = Score("ours", absent="no call that starts many runs")

    results = results_of(missing, broken, PEER)

    assert "| DBOS | **could not be measured**: it ended / with 1 |" in tables(results)
    assert "| workflow-runtime | no call that starts many runs |" in tables(results)
    assert results.failures == ["steps-1, dbos: it ended | with 1"]
    assert "DBOS" not in chart(STEPS, results.rows["steps-1"])


def test_columns_are_those_that_the_work_has() -> None:
    """A file has no server, and a time no cost."""
    file, times = next(row for row in ROWS if row.id == "sqlite-1"), tables(results_of(OURS, row=SIGNAL))

    assert "| Contender | steps per second | ÷ `sqlite` | client CPU, µs |\n|---|---|---|---|\n" in tables(
        results_of(OURS, row=file)
    )
    assert "| Contender | milliseconds | ÷ a bare NOTIFY to a listener in another process |\n|---|---|---|\n" in times


def test_table_says_that_the_machine_was_busy() -> None:
    results = results_of(OURS)
    for before, after in ((100.0, 110.0), (100.0, 160.0), (160.0, 100.0)):
        results.note_turn(before, after)

    assert "in 2 of 3 turns the raw limit changed by a factor of 1.5 or more" in tables(results)


@pytest.mark.parametrize("row", [STEPS, SIGNAL], ids=lambda row: row.id)
def test_chart_is_well_formed_and_true_to_scale(row: Row) -> None:
    namespace = {"svg": "http://www.w3.org/2000/svg"}
    drawn = ET.fromstring(chart(row, [OURS, PEER, SAVER]))

    bars = drawn.findall("svg:rect", namespace)
    assert [bar.get("class") for bar in bars] == ["ours", "peer", "part"]
    ours, peer, saver = (float(bar.get("width", "")) for bar in bars)
    assert ours == pytest.approx(2 * peer, abs=0.2)
    assert saver == max(ours, peer, saver)
    assert "prefers-color-scheme: dark" in ET.tostring(drawn, encoding="unicode")


def test_chart_of_nothing_is_well_formed() -> None:
    ET.fromstring(chart(STEPS, [Score("ours", failure="it broke")]))


def test_results_come_back_as_they_were_saved(tmp_path: Path) -> None:
    results = results_of(OURS, Score("dbos", failure="it broke"))
    results.calibrations["insert-1"] = [400.0]

    save(results, tmp_path / "results.json")

    assert load(tmp_path / "results.json") == results


# The page, and the table of what is measured.


def test_page_is_what_its_results_say() -> None:
    """`python -m comparison --render` mends it."""
    text, results = page.PAGE.read_text(encoding="utf-8"), load(page.RESULTS)

    assert page.with_results(text, results) == text
    charts = {path.name: path.read_text(encoding="utf-8") for path in page.CHARTS.glob("*.svg")}
    assert charts == page.drawn(results)


def test_page_was_made_without_a_failure() -> None:
    results = load(page.RESULTS)

    assert results.failures == []
    assert list(results.rows) == [row.id for row in ROWS]
    for row in ROWS:
        assert [score.contender for score in results.rows[row.id]] == list(row.contenders)


def test_page_is_written_with_charts_and_figures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What people wrote around it stays, and a chart of a row that is gone goes."""
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    monkeypatch.setattr(page, "CHARTS", tmp_path / "charts")
    monkeypatch.setattr(page, "RESULTS", tmp_path / "charts" / "results.json")
    page.PAGE.write_text(f"before\n{page.BEGIN}old\n{page.END}after\n")
    page.CHARTS.mkdir()
    (page.CHARTS / "gone.svg").write_text("old")

    page.write(results_of(Score("ours", [1 / 3], [2 / 3])))

    text = page.PAGE.read_text(encoding="utf-8")
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "old" not in text
    assert "![Durable steps" in text
    assert "(charts/steps-1.svg)" in text
    assert {path.name for path in page.CHARTS.iterdir()} == {"steps-1.svg", "results.json"}
    assert page.with_results(text, load(page.RESULTS)) == text


def test_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for results"):
        page.with_results("# Performance\n", results_of(OURS))


def test_rows_name_what_there_is() -> None:
    names = [row.id for row in ROWS]

    assert len(names) == len(set(names))
    for row in ROWS:
        assert set(row.contenders) <= CONTENDERS.keys()
        assert row.calibration in CALIBRATIONS or row.floor
    assert {name for row in ROWS for name in row.contenders} == CONTENDERS.keys()


def test_rows_and_contenders_can_be_chosen() -> None:
    [row] = chosen({"steps-16"}, {"ours", "absurd", "pgqueuer"})

    assert (row.id, row.contenders) == ("steps-16", ("ours", "absurd"))
    assert chosen(set(), set()) == ROWS
    with pytest.raises(ValueError, match="unknown: nobody, steps-3"):
        chosen({"steps-3"}, {"nobody"})


def test_data_in_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a commit costs nothing, and every ratio would be wrong."""
    mounts = tmp_path / "mounts"
    monkeypatch.setattr(machine, "MOUNTS", mounts)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    mounts.write_text(f"/dev/vda / ext4 rw 0 0\ntmpfs {tmp_path.resolve()} tmpfs rw 0 0\n")
    with pytest.raises(ValueError, match="set TMPDIR"):
        machine.folder_on_disk()

    mounts.write_text("tmpfs / tmpfs rw 0 0\n/dev/vda / ext4 rw 0 0\n".replace("tmpfs / tmpfs", "tmpfs /nowhere tmpfs"))
    assert machine.folder_on_disk() == tmp_path


# Rounds.


class OnPaper(Comparison):
    """Nothing is started: a raw limit is how often it was measured, and every contender does 60 units in a second."""

    def __init__(self, plan: Plan, results: Results) -> None:
        super().__init__(plan, Environments(Path()), Server.__new__(Server), results, lambda _: None)
        self.order: list[str] = []

    def _raw_rate(self, limit: str) -> float:
        self.order.append(limit)
        return float(self.order.count(limit))

    def _measure(self, row: Row, name: str, seconds: float, units: int) -> tuple[dict[str, Any], Reading]:
        self.order.append(name)
        if name == "dbos":
            raise FailedContenderError("it broke")
        return {"units": 60, "seconds": 1.0, "client_cpu_s": 0.6}, Reading(0.3, 6_000, 90)


def test_contenders_take_turns_between_two_measurements_of_the_raw_limit() -> None:
    """Also after a failure. In the next round another one is the first."""
    [row] = chosen({"steps-64"}, {"ours", "dbos", "absurd"})
    results = results_of()
    comparison = OnPaper(Plan([row], 2, 0.8), results)

    for number in range(2):
        comparison._take_turns(row, number)

    raw = "insert-16"
    first = [raw, "ours", raw, "absurd", raw, "dbos", raw]
    assert comparison.order == [*first, raw, "absurd", raw, "dbos", raw, "ours", raw]
    assert results.score("steps-64", "ours").floors == [1.5, 7.5]
    assert results.score("steps-64", "absurd").floors == [2.5, 5.5]
    assert results.failures == ["steps-64, dbos: it broke"]
    assert (results.turns, results.disturbed) == (4, 2)  # from 1 to 2, from 2 to 3 are as far as that


class Busy(OnPaper):
    """The raw limits that are found one after the other."""

    def __init__(self, plan: Plan, results: Results, rates: list[float]) -> None:
        super().__init__(plan, results)
        self.rates = rates
        self.pauses: list[float] = []
        self._pause = self.pauses.append

    def _raw_rate(self, limit: str) -> float:
        return self.rates.pop(0)


def test_turn_waits_while_the_machine_is_busy() -> None:
    """Until the raw limit is near what it usually is; both are measured again then."""
    [row] = chosen({"steps-64"}, {"ours"})
    results = results_of()
    comparison = Busy(Plan([row], 1, 0.8, patience_s=60), results, [100.0, 50.0, 60.0, 90.0])

    comparison._take_turns(row, 0)

    assert results.score("steps-64", "ours").floors == [95.0]
    assert comparison.pauses == [2.0, 2.0]
    assert results.calibrations == {"insert-16": [100.0, 90.0]}


def test_patience_ends() -> None:
    """On a machine that stays busy the rest is measured as it is."""
    [row] = chosen({"steps-64"}, {"ours"})
    results = results_of()
    comparison = Busy(Plan([row], 1, 0.8, patience_s=4), results, [100.0, 50.0, 50.0, 50.0])

    comparison._take_turns(row, 0)

    assert comparison.pauses == [2.0, 2.0]
    assert results.calibrations == {"insert-16": [100.0, 50.0]}
    assert results.disturbed == 1


def test_figures_are_for_a_unit() -> None:
    [row] = chosen({"steps-64"}, {"ours"})
    results = results_of()

    OnPaper(Plan([row], 1, 0.8), results)._take_turns(row, 0)

    score = results.score("steps-64", "ours")
    assert (score.values, score.ratios) == ([60.0], [40.0])
    assert score.client_us == pytest.approx([10_000])
    assert score.server_us == pytest.approx([5_000])


def test_burst_of_jobs_is_no_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in which a worker brings the next jobs counts, unless there are none."""
    now = 0.0
    monkeypatch.setattr("comparison.contenders.stopwatch.time.perf_counter", lambda: now)
    jobs = stopwatch.Jobs(Task("jobs", backlog=9))

    for now in (10.0, 10.0, 10.0, 10.0, 10.0):  # noqa: B007  # the clock
        jobs.handled()
    assert jobs.rate(12.0) == 2.0

    for now in (11.0, 11.0, 11.0, 12.0):  # noqa: B007
        jobs.handled()
    assert jobs.rate(20.0) == 4.0


# Environments.


class Unmakeable(Environments):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.tries = 0

    def _make(self, name: str) -> Environment:
        self.tries += 1
        raise OSError("there is no network")


def test_environment_that_cannot_be_made_is_tried_once(tmp_path: Path) -> None:
    environments = Unmakeable(tmp_path)

    for _ in range(2):
        with pytest.raises(SetupError, match="the environment dbos cannot be made: there is no network"):
            environments.get("dbos")

    assert environments.tries == 1


def test_environment_is_kept_until_what_it_is_made_of_changes(tmp_path: Path) -> None:
    """One that was left half-made is made anew."""

    def make(*facts: str, fails: bool = False) -> bool:
        with stamped(tmp_path / "one", facts) as is_new:
            if is_new:
                (tmp_path / "one").mkdir()
            if fails:
                raise OSError
            return is_new

    with pytest.raises(OSError):  # noqa: PT011  # without a text
        make("a", fails=True)

    assert [make("a"), make("a"), make("b"), make("b")] == [True, False, True, False]


# Short ones for real.


class OnlyHere(Environments):
    """Everything of ours runs in this process's environment; nothing else can be made."""

    def __init__(self) -> None:
        pass

    def get(self, name: str) -> Environment:
        if name != "ours":
            raise SetupError(f"the environment {name} cannot be made: there is no network")
        return HERE


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.mark.real_time
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="where there is no /proc, the page has no CPU time of servers")
def test_reading_counts_sessions_that_have_ended(server: Server) -> None:
    """A contender that connects anew for each job is charged for all its sessions."""
    with server.database() as dsn:
        before = server.read(dsn)
        with psycopg.connect(dsn) as session:
            process = Path(f"/proc/{session.info.backend_pid}")
            session.execute("CREATE TABLE big AS SELECT n FROM generate_series(1, 500000) AS n")
        deadline = time.monotonic() + 30
        while process.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        after = server.read(dsn)

    assert not process.exists()
    assert after.cpu_s - before.cpu_s >= 0.05
    assert after.wal_bytes - before.wal_bytes > 500_000
    assert after.statements == 0  # nothing counts them now


@pytest.mark.real_time
def test_statements_of_one_database_are_counted_while_they_shall_be(server: Server) -> None:
    with server.database() as dsn, server.database() as other, server.counting():
        with psycopg.connect(dsn, autocommit=True) as session:
            deadline = time.monotonic() + 30
            while server.read(dsn).statements == 0 and time.monotonic() < deadline:
                session.execute("SELECT 1")  # the setting reaches sessions a moment later
                time.sleep(0.01)
            before = server.read(dsn).statements
            for _ in range(7):
                session.execute("SELECT 1")
            after = server.read(dsn).statements

        assert after - before == 7
        assert server.read(other).statements == 0


@pytest.mark.real_time
def test_short_comparison_measures_us_and_notes_who_is_missing(server: Server) -> None:
    rows = chosen({"steps-1", "jobs-16", "sqlite-64", "memory-1", "signal"}, {"ours", "dbos"})
    results, lines = results_of(), list[str]()
    results.rows.clear()
    plan = Plan(rows, rounds=1, seconds=0.1)

    Comparison(plan, OnlyHere(), server, results, lines.append).run()

    scores = {row: {score.contender: score for score in scores} for row, scores in results.rows.items()}
    for row in rows:
        ours = scores[row.id]["ours"]
        assert not ours.failure
        assert len(ours.values) == len(ours.floors) == 1
        assert min(*ours.values, *ours.floors) > 0
    steps, jobs = scores["steps-1"]["ours"], scores["jobs-16"]["ours"]
    assert steps.statements == pytest.approx(1.1, abs=0.05)  # a run of ten steps takes eleven
    assert jobs.statements is not None
    assert jobs.statements <= 1.2
    assert steps.wal_bytes is not None
    assert steps.wal_bytes > 300
    assert all(one > 0 for one in steps.client_us)
    assert "there is no network" in scores["steps-1"]["dbos"].failure
    assert len(results.failures) == 2  # in each row that has it
    assert len([line for line in lines if "min left" in line]) == plan.turns
    assert "FAILED" in "".join(lines)
    assert "could not be measured" in tables(results)


@pytest.mark.real_time
def test_profiles_say_which_layer_takes_the_time(server: Server) -> None:
    """Of each kind of work that there is a profile of, before and now; the layers are all of a unit's CPU time."""

    class Here(OnlyHere):
        def get(self, name: str) -> Environment:
            return HERE

    lines: list[str] = []
    show_profiles(chosen({"memory-1", "signal"}, set()), Here(), server, 0.3, lines.append)

    assert len(lines) == 3
    for line, when in zip(lines[1:], ("before", "now"), strict=True):
        work, unit, moment, whole, *layers = [cell.strip(" *") for cell in line.strip("|").split("|")]
        assert (work, unit, moment) == (next(row.title for row in ROWS if row.id == "memory-1"), "step", when)
        assert sum(map(float, layers)) == pytest.approx(float(whole), abs=4)
        assert float(layers[0]) > 0


def test_layer_is_that_of_the_file() -> None:
    """The engine before the runtime that it is a part of; what is none of ours, or unknown, is the rest."""
    package = "lib/python3.13/site-packages"
    layers = {
        f"/{package}/workflow_runtime/engine/loop.py": "engine",
        f"/{package}/workflow_runtime/worker.py": "runtime",
        f"/{package}/workflow_store_postgres/runs.py": "store",
        f"/{package}/asyncpg/pool.py": "driver",
        "/lib/python3.13/json/encoder.py": "JSON",
        "/lib/python3.13/asyncio/base_events.py": "event loop",
        "/lib/python3.13/threading.py": "rest",
        "<string>": "rest",
    }
    assert {path: layer_of(path) for path in layers} == layers


@pytest.mark.real_time
def test_contender_that_breaks_is_told_with_its_last_words() -> None:
    task = Task("no-such-workload", options={"store": "memory"})

    with (
        converse(HERE, "ours", task) as conversation,
        pytest.raises(FailedContenderError, match=r"(?s)ended with 1; .*KeyError: 'no-such-workload'"),
    ):
        conversation.hear(60)


@pytest.mark.real_time
def test_contender_that_does_not_answer_is_ended() -> None:
    """With whatever it has started: nothing is left beside the next one."""
    with converse(HERE, "ours", Task("steps", seconds=60, options={"store": "memory"})) as conversation:
        assert conversation.hear(60) == {"ready": True}
        conversation.say("go")
        with pytest.raises(FailedContenderError, match="no answer in 0 seconds"):
            conversation.hear(0.2)
        process = conversation.process
    assert process.poll() is not None


@pytest.mark.real_time
def test_call_that_is_not_there_yet_is_no_failure() -> None:
    """The row of a verb that an earlier commit does not have says so."""
    task = Task("start-many", units=1_000, options={"store": "memory"})
    with converse(HERE, "ours", task) as conversation:
        assert conversation.hear(60) == {"ready": True}
        conversation.say("go")
        answer = conversation.hear(60)
    assert answer.get("absent") or answer["units"] == 1_000


def test_command_fails_when_something_was_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(options: object) -> Results:
        return results_of(OURS, Score("dbos", failure="it broke"))

    monkeypatch.setattr(command, "measure", measured)
    code = command.main(command.arguments(["--output", str(tmp_path)]))

    assert code == 1
    assert "FAILED: steps-1, dbos: it broke" in capsys.readouterr().out
    assert load(tmp_path / "results.json").failures
