import pytest
from workflow_migrations import DEFAULT_TABLES, InvalidTableNamesError, TableNames, quote_identifier, render_sql

INDEX = "CREATE INDEX workflow_runs_created ON workflow_runs (created_at)"


def index_name(tables: TableNames, name: str = "workflow_runs_created") -> str:
    return render_sql(name, tables).strip('"')


def test_default_names_are_those_of_the_contract() -> None:
    assert TableNames.of(None) == DEFAULT_TABLES
    assert DEFAULT_TABLES.by_key() == {
        "schema_migrations": "workflow_schema_migrations",
        "runs": "workflow_runs",
        "run_states": "workflow_run_states",
        "event_locks": "workflow_event_locks",
        "events": "workflow_events",
        "timers": "workflow_timers",
        "signal_deliveries": "workflow_signal_deliveries",
        "schedules": "workflow_schedules",
        "schedule_buckets": "workflow_schedule_buckets",
    }


@pytest.mark.parametrize(
    ("tables", "key", "problem"),
    [
        ({"run": "x"}, "run", "there is no such table"),
        ({"runs": ""}, "runs", "empty"),
        ({"runs": "a\0b"}, "runs", "NUL"),
        ({"runs": "\ud800"}, "runs", "surrogate"),
        ({"runs": "x" * 64}, "runs", "64 bytes"),
        ({"runs": "é" * 32}, "runs", "64 bytes"),
        ({"runs": 3}, "runs", "string"),
        ({"runs": "x", "events": "x"}, "events", "same name as 'runs'"),
        ({"runs": "x", "events": "X"}, "events", "same name as 'runs'"),
        ({"events": "workflow_runs"}, "events", "same name as 'runs'"),
    ],
)
def test_unusable_names_are_refused(tables: dict[str, str], key: str, problem: str) -> None:
    with pytest.raises(InvalidTableNamesError, match=problem) as refused:
        TableNames.of(tables)
    assert refused.value.key == key


def test_default_names_leave_the_text_alone() -> None:
    assert render_sql(INDEX, DEFAULT_TABLES) == INDEX


def test_custom_names_are_quoted_and_take_their_indexes_along() -> None:
    tables = TableNames.of({"runs": 'my "runs"'})
    assert render_sql(INDEX, tables) == ('CREATE INDEX "my ""runs""_created" ON "my ""runs""" (created_at)')


def test_only_whole_bare_words_are_replaced() -> None:
    tables = TableNames.of({"runs": "r"})
    untouched = (
        "'workflow_runs' \"workflow_runs\" -- workflow_runs\n/* workflow_runs */ my_workflow_runs workflow_run_states"
    )
    assert render_sql(untouched, tables) == untouched


def test_names_can_be_swapped() -> None:
    tables = TableNames.of({"runs": "workflow_events", "events": "workflow_runs"})
    assert render_sql("workflow_runs, workflow_events", tables) == '"workflow_events", "workflow_runs"'


def test_schema_qualifies_tables_and_not_indexes() -> None:
    assert render_sql(INDEX, DEFAULT_TABLES, schema='s"') == (
        'CREATE INDEX workflow_runs_created ON "s"""."workflow_runs" (created_at)'
    )


def test_long_index_names_are_cut_to_63_bytes_and_stay_apart() -> None:
    tables = TableNames.of({"runs": "é" * 30, "events": "é" * 29 + "x"})
    names = [
        index_name(tables, name)
        for name in ("workflow_runs_created", "workflow_event_locks_listed", "workflow_events_created")
    ]
    assert len(set(names)) == 3
    assert all(len(name.encode()) <= 63 for name in names)


def test_index_names_do_not_meet_other_tables_or_their_indexes() -> None:
    tables = TableNames.of({"runs": "a", "events": "a_created", "timers": "a_b"})
    assert index_name(tables).startswith("a_created_")
    assert index_name(tables, "workflow_runs_b_c") != index_name(tables, "workflow_timers_c")


def test_identifiers_are_quoted_literally() -> None:
    assert quote_identifier('a"b') == '"a""b"'
