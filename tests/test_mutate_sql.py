"""The tool that mutates the statements of a store: it names the mutants that no case caught, and no others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts"
_CHANGES = """
import json, mutate_sql
condition = "EXISTS (SELECT 1 FROM u) AND a IS NULL AND b < 'x'"
sql = f"SELECT a -- = 1\\nFROM t\\nWHERE {condition}\\nORDER BY a, b DESC\\nLIMIT ?1"
print(json.dumps([[one.line, one.before, one.after] for one in mutate_sql.mutants_of("q", sql)]))
"""
_RUN = """
import sys, mutate_sql
everything = mutate_sql.catalogue()
mutate_sql.catalogue = lambda: [case for case in everything if "TIMER-1" in case.clauses]
sys.argv[1:] = ["sqlite", "--query", "schedule_timer.timer", "--out", {out!r}, "--processes", "2"]
mutate_sql.main()
"""
_JUDGED = """
import json, mutate_sql
queries = mutate_sql.load_queries(mutate_sql.STORES[{store!r}].package)
made = {{str(one) for name in queries for one in mutate_sql.mutants_of(name, queries[name].sql)}}
print(json.dumps(sorted(set(mutate_sql.read_judgements({store!r})) - made)))
"""


def run(program: str) -> str:
    path = os.pathsep.join([str(SCRIPTS), *(entry for entry in sys.path if entry)])
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    return done.stdout


def test_each_part_of_a_statement_is_changed_but_comments() -> None:
    changes = [tuple(change) for change in json.loads(run(_CHANGES))]
    assert sorted(changes) == sorted(
        [
            (1, "SELECT a -- = 1", ""),
            (2, "FROM t", ""),
            (3, "EXISTS", "NOT EXISTS"),
            (3, "NULL", "0"),
            (3, "NULL", "NOT NULL"),
            (3, "AND", "OR"),
            (3, "AND", "OR"),
            (3, "<", "<="),
            (3, "<", ">"),
            (3, "'x'", "'~'"),
            (3, "WHERE EXISTS (SELECT 1 FROM u) AND a IS NULL AND b < 'x'", ""),
            (4, "", " DESC"),
            (4, "DESC", "ASC"),
            (4, "ORDER BY a, b DESC", ""),
            (5, "?1", "NULL"),
            (5, "LIMIT ?1", ""),
        ]
    )


def test_what_no_case_notices_is_left_and_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A timer that loses its time is caught. A condition that these few cases do not ask for is left."""
    out = tmp_path / "results.jsonl"
    said = run(_RUN.format(out=str(out)))
    results = [json.loads(line) for line in out.read_text().splitlines()]
    left = {line["mutant"] for line in results if line["caught_by"] == "-"}
    assert len(results) > len(left) > 0
    assert not any("'?5' -> 'NULL'" in one for one in left)
    (condition,) = (one for one in left if one.endswith("""\"AND head.status = 'running'\" -> ''"""))
    assert f"{len(results)} tried, {len(left)} survived" in said
    assert f"{condition}: " in said
    out.write_text("".join(f"{json.dumps(line)}\n" for line in results[:-1]))
    run(_RUN.format(out=str(out)))
    again = [json.loads(line)["mutant"] for line in out.read_text().splitlines()]
    assert sorted(again) == sorted(line["mutant"] for line in results), "a mutant was tried twice, or not at all"


@pytest.mark.parametrize("store", ["sqlite", "postgres", "postgres-combined"])
def test_judgements_are_of_mutants_that_there_are(store: str) -> None:
    """A statement that changes needs new judgements of what survives in it."""
    unknown = json.loads(run(_JUDGED.format(store=store)))
    assert unknown == []
