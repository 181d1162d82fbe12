import pytest
from workflow_migrations import (
    ColumnDefinition,
    InvalidMigrationError,
    TableDefinition,
    TableNames,
    parse_migrations,
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
    UNIQUE (note, lane)
) WITH (fillfactor = 70);

CREATE INDEX workflow_runs_note ON workflow_runs (note) WHERE note IS NOT NULL;

-- About what follows, and no table of its own.

CREATE TABLE workflow_events (
    run_id TEXT NOT NULL,
    event_index INTEGER,
    PRIMARY KEY (run_id, event_index)
) STRICT, WITHOUT ROWID;

INSERT INTO workflow_schema_migrations (migration_id) VALUES ('CREATE TABLE ('); COMMIT;
"""


def column(name: str, kind: str, *, nullable: bool = False, primary_key: bool = False) -> ColumnDefinition:
    return ColumnDefinition(name=name, type=kind, nullable=nullable, primary_key=primary_key)


RUNS = TableDefinition(
    key="runs",
    name="workflow_runs",
    schema=None,
    comment="What never changes; (about) a run. queue: where, it waits.",
    columns=(
        column("run_id", "text", primary_key=True),
        column("priority", "smallint"),
        column("note", "text", nullable=True),
        column("lane", "TEXT"),
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
    assert read(FIRST, "DROP TABLE workflow_runs;") == (EVENTS,)


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
        "CREATE TABLE workflow_timers AS SELECT 1;",
        "CREATE TABLE workflow_timers (id text",
        "CREATE VIEW workflow_timers AS SELECT 1;",
        "TRUNCATE workflow_runs;",
        "CREATE",
    ],
)
def test_what_the_reader_does_not_know_is_refused(script: str) -> None:
    with pytest.raises(InvalidMigrationError, match=r"0001_change\.sql.*cannot be read"):
        read(FIRST, script)
