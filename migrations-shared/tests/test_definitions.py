from dataclasses import replace
from typing import Any

import pytest
from workflow_migrations import (
    ColumnDefinition,
    IndexDefinition,
    InvalidMigrationError,
    OnlineIndex,
    TableDefinition,
    TableNames,
    UniqueDefinition,
    parse_migrations,
    read_online_index,
    read_table_definitions,
)

FIRST = """
-- The file's own header.

BEGIN;

-- What never changes; (about) a run.
-- queue: where, it waits.
CREATE TABLE workflow_runs (
    run_id text COLLATE "C" PRIMARY KEY, -- the id
    priority smallint NOT NULL DEFAULT 0,
    note text,
    lane TEXT NOT NULL GENERATED ALWAYS AS (json_array(run_id, priority)) VIRTUAL,
    UNIQUE (note, lane),
    CONSTRAINT workflow_runs_once UNIQUE (lane, note)
) WITH (fillfactor = 70);

CREATE INDEX workflow_runs_note ON workflow_runs (note)
    WHERE note IS NOT NULL;
CREATE UNIQUE INDEX workflow_runs_lower ON workflow_runs (lower(note), run_id DESC);

-- About what follows, and no table of its own.

CREATE TABLE workflow_events (
    run_id TEXT NOT NULL,
    event_index INTEGER,
    PRIMARY KEY (run_id, event_index)
) STRICT, WITHOUT ROWID;

INSERT INTO workflow_schema_migrations (migration_id) VALUES ('CREATE TABLE ('); COMMIT;
"""


def column(name: str, kind: str, **facts: Any) -> ColumnDefinition:
    return ColumnDefinition(name=name, type=kind, **({"nullable": False, "primary_key": False} | facts))


RUNS = TableDefinition(
    key="runs",
    name="workflow_runs",
    schema=None,
    comment="What never changes; (about) a run. queue: where, it waits.",
    columns=(
        column("run_id", "text", primary_key=True),
        column("priority", "smallint", default="0"),
        column("note", "text", nullable=True),
        column("lane", "TEXT", generated="json_array(run_id, priority)"),
    ),
    indexes=(
        IndexDefinition(name="workflow_runs_note", columns=("note",), unique=False, where="note IS NOT NULL"),
        IndexDefinition(name="workflow_runs_lower", columns=("lower(note)", "run_id DESC"), unique=True, where=None),
    ),
    unique=(
        UniqueDefinition(name=None, columns=("note", "lane")),
        UniqueDefinition(name="workflow_runs_once", columns=("lane", "note")),
    ),
)
EVENTS = TableDefinition(
    key="events",
    name="workflow_events",
    schema=None,
    comment="",
    columns=(column("run_id", "TEXT", primary_key=True), column("event_index", "INTEGER", primary_key=True)),
)


def read(*scripts: str) -> tuple[TableDefinition, ...]:
    return read_table_definitions(
        parse_migrations({f"{number:04}_change.sql": script for number, script in enumerate(scripts)})
    )


def test_tables_are_read_from_the_migrations() -> None:
    assert read(FIRST) == (RUNS, EVENTS)


def test_names_and_schema_are_the_users() -> None:
    migrations = parse_migrations({"0000_change.sql": FIRST})
    found = read_table_definitions(migrations, TableNames.of({"runs": "My Runs"}), schema="flows")
    assert [(table.schema, table.name, table.key) for table in found] == [
        ("flows", "My Runs", "runs"),
        ("flows", "workflow_events", "events"),
    ]


def test_later_migrations_change_the_tables() -> None:
    runs, _ = read(
        FIRST,
        "ALTER TABLE workflow_runs ADD COLUMN remark text NOT NULL DEFAULT '';",
        "ALTER TABLE workflow_runs DROP COLUMN note;",
    )
    assert [(item.name, item.nullable) for item in runs.columns] == [
        ("run_id", False),
        ("priority", False),
        ("lane", False),
        ("remark", False),
    ]
    assert (runs.indexes, runs.unique) == ((), ()), "they need the column that is gone"
    assert read(FIRST, "DROP TABLE workflow_runs;") == (EVENTS,)


def test_indexes_come_and_go() -> None:
    runs, _ = read(
        FIRST,
        "CREATE INDEX workflow_runs_due ON workflow_runs (priority, run_id) WHERE priority > -1 AND run_id <> 'a b';",
        "DROP INDEX workflow_runs_lower;",
    )
    due = IndexDefinition(
        name="workflow_runs_due",
        columns=("priority", "run_id"),
        unique=False,
        where="priority > -1 AND run_id <> 'a b'",
    )
    assert runs.indexes == (RUNS.indexes[0], due)


def test_indexes_are_built_and_dropped_beside_writers() -> None:
    script = "DROP INDEX CONCURRENTLY IF EXISTS {0}; CREATE INDEX CONCURRENTLY {0} ON workflow_runs (priority);"
    script += "INSERT INTO workflow_schema_migrations VALUES (1);"
    files = {"0000_first.sql": FIRST}
    for number, name in enumerate(("workflow_runs_due", "workflow_runs_lower"), start=1):
        files[f"{number:04}_online_x.sql"] = script.format(name)
    runs, _ = read_table_definitions(parse_migrations(files))
    due = IndexDefinition(name="workflow_runs_due", columns=("priority",), unique=False, where=None)
    assert runs.indexes == (RUNS.indexes[0], due, replace(due, name="workflow_runs_lower"))


def test_index_that_a_migration_builds_beside_writers() -> None:
    script = "DROP INDEX CONCURRENTLY IF EXISTS {0}; create index concurrently {0} on workflow_runs (priority);"
    script += "INSERT INTO workflow_schema_migrations VALUES (1);"
    first, online = parse_migrations(
        {"0000_first.sql": FIRST, "0001_online_due.sql": script.format("workflow_runs_due")}
    )
    found = read_online_index(online, TableNames.of({"runs": "My Runs"}))
    assert found == OnlineIndex(name="My Runs_due", table="My Runs")
    with pytest.raises(InvalidMigrationError, match="builds no index"):
        read_online_index(first)


def test_indexes_and_constraints_are_renamed_with_their_table() -> None:
    migrations = parse_migrations({"0000_change.sql": FIRST})
    runs, _ = read_table_definitions(migrations, TableNames.of({"runs": 'My "Runs"'}))
    assert [index.name for index in runs.indexes] == ['My "Runs"_note', 'My "Runs"_lower']
    assert [one.name for one in runs.unique] == [None, 'My "Runs"_once']


@pytest.mark.parametrize(
    "script",
    [
        "ALTER TABLE workflow_runs RENAME COLUMN note TO remark;",
        "ALTER TABLE workflow_runs ALTER COLUMN note SET NOT NULL;",
        "ALTER TABLE workflow_timers ADD COLUMN note text;",
        "ALTER TABLE IF EXISTS workflow_runs ADD COLUMN x text;",
        "ALTER TABLE workflow_runs ADD COLUMN x text, ADD COLUMN y text;",
        "ALTER TABLE workflow_runs ADD COLUMN x numeric(3, 2);",
        "ALTER TABLE workflow_runs DROP COLUMN note CASCADE;",
        "DROP TABLE workflow_timers;",
        "DROP TABLE workflow_runs, workflow_events;",
        "CREATE TABLE strange (id text);",
        'CREATE TABLE "workflow_timers" (id text);',
        "CREATE TABLE IF NOT EXISTS workflow_timers (id text);",
        "CREATE TABLE workflow_timers (id text CHECK (id > ''));",
        "CREATE TABLE workflow_timers (id text REFERENCES workflow_runs (run_id));",
        "CREATE TABLE workflow_timers (id text, FOREIGN KEY (id) REFERENCES workflow_runs (run_id));",
        "CREATE TABLE workflow_timers (id text, CHECK (id > ''));",
        "CREATE TABLE workflow_timers (id text, UNIQUE (id) DEFERRABLE);",
        "CREATE TABLE workflow_timers (id text, CONSTRAINT workflow_timers_id CHECK (id > ''));",
        "CREATE TABLE workflow_timers AS SELECT 1;",
        "CREATE INDEX workflow_timers_id ON workflow_timers (id);",
        "CREATE INDEX IF NOT EXISTS workflow_runs_x ON workflow_runs (run_id);",
        "CREATE INDEX workflow_runs_x ON workflow_runs USING hash (run_id);",
        "CREATE INDEX workflow_runs_x ON workflow_runs (run_id) INCLUDE (note);",
        "CREATE UNIQUE TABLE workflow_timers (id text);",
        "DROP INDEX workflow_runs_x;",
        "DROP TABLE IF EXISTS workflow_runs;",
        "DROP INDEX workflow_runs_note, workflow_runs_lower;",
        "CREATE TABLE workflow_timers (id text",
        "CREATE VIEW workflow_timers AS SELECT 1;",
        "TRUNCATE workflow_runs;",
        "CREATE",
    ],
)
def test_what_the_reader_does_not_know_is_refused(script: str) -> None:
    with pytest.raises(InvalidMigrationError, match=r"0001_change\.sql.*cannot be read"):
        read(FIRST, script)
