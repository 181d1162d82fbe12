import re

import pytest
from workflow_store_sql import InvalidQueryFileError, parse_queries

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


def test_fragment_stands_where_it_is_included() -> None:
    """Each of its lines gets the indentation of the line that names it; fragments may include others."""
    text = """
-- fragment: columns
-- The columns of a listing.
head.run_id,
-- include: state

-- fragment: state
head.status,
    head.due_at

-- name: load_run
-- ?1 run_id
SELECT
    -- include: columns
FROM heads AS head
-- name: whole
-- include: state
"""
    queries = parse_queries("runs.sql", text)
    assert set(queries) == {"load_run", "whole"}
    assert queries["load_run"].sql == (
        "SELECT\n    head.run_id,\n    head.status,\n        head.due_at\nFROM heads AS head"
    )
    assert queries["load_run"].parameters == ("run_id",)
    assert queries["whole"].sql == "head.status,\n    head.due_at"


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("SELECT 1", 1, "before the first name"),
        ("-- include: a", 1, "before the first name"),
        ("-- name: a\nSELECT 1\n-- name: a\nSELECT 2", 3, "defined twice"),
        ("-- name: a\n-- name: b\nSELECT 1", 1, "has no SQL"),
        ("-- name: a\n-- Says something.", 1, "has no SQL"),
        ("-- name:\nSELECT 1", 1, "is not a name"),
        ("-- name: A-b\nSELECT 1", 1, "is not a name"),
        ("-- statement: a\nSELECT 1", 1, "outside of a named block"),
        ("-- name: a\n-- ?2 run_id\nSELECT ?2", 1, "are not 1, 2, 3"),
        ("-- name: a\n-- statement: b\nSELECT 1\n-- statement: b\nSELECT 1", 4, "defined twice"),
        ("-- name: a\nSELECT\n    -- include: b", 3, "there is no fragment 'b'"),
        ("-- name: a\n-- include: a", 2, "there is no fragment 'a'"),
        ("-- name: a\n-- include:", 2, "'' is not a name"),
        ("-- name: a\nSELECT\n-- include: b, c", 3, "'b, c' is not a name"),
        ("-- fragment: b\n1\n-- name: a\nSELECT 1", 1, "the fragment 'b' is included nowhere"),
        ("-- fragment: b\n-- include: b\n-- name: a\n-- include: b", 2, "the fragment 'b' includes itself"),
        (
            "-- fragment: b\n-- include: c\n-- fragment: c\n-- include: b\n-- name: a\n-- include: b",
            4,
            "the fragment 'b' includes itself",
        ),
        ("-- fragment: b\n1\n-- fragment: b\n2\n-- name: a\n-- include: b", 3, "defined twice"),
        ("-- fragment: b\n-- name: a\n-- include: b", 1, "has no SQL"),
        ("-- name: a\nSELECT 1\n-- fragment: b\n1\n-- statement: c\nSELECT 2", 5, "outside of a named block"),
    ],
)
def test_unreadable_files_are_refused(text: str, line: int, problem: str) -> None:
    with pytest.raises(InvalidQueryFileError, match=re.escape(problem)) as refused:
        parse_queries("x.sql", text)
    assert (refused.value.file_name, refused.value.line) == ("x.sql", line)
