import pytest
from workflow_migrations import InvalidQueryFileError, parse_queries

FILE = """-- What this file is about.

-- name: load_run
-- Reads one run.
-- ?1 run_id
SELECT status -- in words
FROM runs
WHERE run_id = ?1;

-- name: requeue_run
-- Gives a run back.
-- statement: before
-- ?1 run_id
SELECT 1;
-- statement: head
-- A remark.
-- ?1 run_id  ?2 now_ms
UPDATE runs SET x = ?2 WHERE run_id = ?1
"""


def test_blocks_and_their_statements_get_names() -> None:
    queries = parse_queries("runs.sql", FILE)
    assert {name: query.parameters for name, query in queries.items()} == {
        "load_run": ("run_id",),
        "requeue_run.before": ("run_id",),
        "requeue_run.head": ("run_id", "now_ms"),
    }
    assert queries["load_run"].sql == "SELECT status -- in words\nFROM runs\nWHERE run_id = ?1"
    assert queries["requeue_run.head"].sql == "UPDATE runs SET x = ?2 WHERE run_id = ?1"


def test_postgres_parameters_are_read_too() -> None:
    assert parse_queries("x.sql", "-- name: a\n-- $1 run_id\nSELECT $1")["a"].parameters == ("run_id",)


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("SELECT 1", 1, "before the first name"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", 3, "defined twice"),
        ("-- name: a\n-- name: b\nSELECT 1", 1, "has no SQL"),
        ("-- name: a\n-- Says something.", 1, "has no SQL"),
        ("-- name:\nSELECT 1", 1, "is not a name"),
        ("-- name: A-b\nSELECT 1", 1, "is not a name"),
        ("-- statement: a\nSELECT 1", 1, "outside of a named block"),
        ("-- name: a\n-- ?2 run_id\nSELECT ?2", 1, "are not 1, 2, 3"),
        ("-- name: a\n-- statement: b\nSELECT 1\n-- statement: b\nSELECT 1", 4, "defined twice"),
    ],
)
def test_unreadable_files_are_refused(text: str, line: int, problem: str) -> None:
    with pytest.raises(InvalidQueryFileError, match=problem) as refused:
        parse_queries("x.sql", text)
    assert (refused.value.file_name, refused.value.line) == ("x.sql", line)
