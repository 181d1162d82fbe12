from pathlib import Path
from typing import Any

import pytest
from workflow_migrations import (
    InvalidMigrationError,
    Migration,
    TableNames,
    UnknownMigrationError,
    checksum,
    join_migrations,
    load_migrations,
    parse_migrations,
    render_migrations,
    select_migrations,
)


def test_files_are_ordered_by_number() -> None:
    migrations = parse_migrations({"0001_b.sql": "B", "0000_a.sql": "A", "0002_expand_c.sql": "C"})
    assert [(m.number, m.migration_id, m.sql) for m in migrations] == [
        (0, "0000_a", "A"),
        (1, "0001_b", "B"),
        (2, "0002_expand_c", "C"),
    ]


@pytest.mark.parametrize(
    "name",
    ["1_a.sql", "00000_a.sql", "0000.sql", "0000_.sql", "0000-a.sql", "0000_A.sql", "0000_a b.sql", "0000_a__b.sql"],
)
def test_bad_name_is_refused(name: str) -> None:
    with pytest.raises(InvalidMigrationError) as refused:
        parse_migrations({name: "SELECT 1"})
    assert refused.value.file_name == name


@pytest.mark.parametrize(
    ("names", "culprit", "problem"),
    [
        (["0001_a.sql"], "0001_a.sql", "0000 is missing"),
        (["0000_a.sql", "0002_b.sql"], "0002_b.sql", "0001 is missing"),
        (["0000_a.sql", "0000_b.sql"], "0000_b.sql", "same number"),
    ],
)
def test_gap_and_double_are_refused(names: list[str], culprit: str, problem: str) -> None:
    with pytest.raises(InvalidMigrationError, match=problem) as refused:
        parse_migrations(dict.fromkeys(names, "SELECT 1"))
    assert refused.value.file_name == culprit


def test_empty_file_is_refused() -> None:
    with pytest.raises(InvalidMigrationError, match="is empty"):
        parse_migrations({"0000_a.sql": " \n"})


def test_checksum_ignores_what_tools_change_and_nothing_else() -> None:
    assert checksum("a\nb\n") == checksum("a  \r\nb")
    assert checksum("a\nb") != checksum("a\n b")
    assert checksum("a\nb") != checksum("ab")


def test_package_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "some_store" / "migrations"
    folder.mkdir(parents=True)
    (tmp_path / "some_store" / "__init__.py").touch()
    (folder / "0000_first.sql").write_text("SELECT 'é'", encoding="utf-8")
    (folder / "README.md").write_text("not a migration", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    (migration,) = load_migrations("some_store")
    assert (migration.migration_id, migration.sql) == ("0000_first", "SELECT 'é'")


SHIPPED = parse_migrations(
    {
        "0000_first.sql": "-- About it.\n\nBEGIN;\n\n-- A table.\nCREATE TABLE workflow_runs (a text);\n\nCOMMIT;\n",
        "0001_second.sql": "CREATE INDEX workflow_runs_a ON workflow_runs (a);\n",
        "0002_third.sql": "begin ;\nDELETE FROM workflow_events WHERE kind = 'COMMIT;'; -- why\ncommit;\n",
    }
)


@pytest.mark.parametrize(
    ("choice", "numbers"),
    [
        ({}, [0, 1, 2]),
        ({"ids": []}, []),
        ({"ids": ["0002_third", "0000_first"]}, [0, 2]),
        ({"from_id": "0001_second"}, [1, 2]),
        ({"to_id": "0001_second"}, [0, 1]),
        ({"from_id": "0001_second", "to_id": "0001_second"}, [1]),
        ({"from_id": "0002_third", "to_id": "0000_first"}, []),
        ({"ids": ["0000_first", "0001_second"], "from_id": "0001_second"}, [1]),
    ],
)
def test_some_are_chosen_by_their_ids(choice: dict[str, Any], numbers: list[int]) -> None:
    assert [migration.number for migration in select_migrations(SHIPPED, **choice)] == numbers


@pytest.mark.parametrize("choice", [{"ids": ["0003_x"]}, {"from_id": "0003_x"}, {"to_id": "0003_x"}])
def test_an_id_that_is_not_shipped_is_refused(choice: dict[str, Any]) -> None:
    with pytest.raises(UnknownMigrationError, match="no migration '0003_x'; there are 0000_first, 0001_second, 0002"):
        select_migrations(SHIPPED, **choice)


def test_statements_come_without_a_transaction() -> None:
    assert [migration.statements for migration in SHIPPED] == [
        ("-- A table.\nCREATE TABLE workflow_runs (a text)",),
        ("CREATE INDEX workflow_runs_a ON workflow_runs (a)",),
        ("DELETE FROM workflow_events WHERE kind = 'COMMIT;'",),
    ]


def test_script_is_the_files_or_what_a_tool_with_its_own_transaction_needs() -> None:
    assert join_migrations(SHIPPED) == "\n".join(migration.sql for migration in SHIPPED)
    assert join_migrations(SHIPPED, transaction=False) == (
        "-- About it.\n\n-- A table.\nCREATE TABLE workflow_runs (a text);\n"
        "\nCREATE INDEX workflow_runs_a ON workflow_runs (a);\n"
        "\n\nDELETE FROM workflow_events WHERE kind = 'COMMIT;'; -- why\n"
    )


def test_names_are_put_in_and_the_checksum_stays() -> None:
    rendered = render_migrations(SHIPPED, TableNames.of({"runs": "My Runs"}), schema="flows")
    assert rendered[1].sql == 'CREATE INDEX "My Runs_a" ON "flows"."My Runs" (a);\n'
    assert [(one.migration_id, one.number, one.checksum) for one in rendered] == [
        (one.migration_id, one.number, one.checksum) for one in SHIPPED
    ]


ONLINE = """-- 0001_online_due: finds what is due.
-- Oldest code: 0.1.0

DROP INDEX CONCURRENTLY IF EXISTS workflow_runs_due; -- what was left CONCURRENTLY
create index concurrently workflow_runs_due ON workflow_runs (due) WHERE note <> 'CONCURRENTLY';

INSERT INTO workflow_schema_migrations VALUES ('0001_online_due');
"""


def parse(name: str, text: str) -> Migration:
    return parse_migrations({"0000_first.sql": "SELECT 1;", name: text})[1]


def test_phase_is_in_the_name() -> None:
    assert parse("0001_online_due.sql", ONLINE).phase == "online"
    assert parse("0001_contract_due.sql", "SELECT 1;").phase == "contract"
    assert {parse(f"0001_{name}.sql", "SELECT 1;").phase for name in ("expand_due", "due_online", "onlines")} == {
        "expand"
    }


def test_index_that_is_built_beside_writers_needs_no_transaction() -> None:
    online = parse("0001_online_due.sql", ONLINE)
    assert not online.transactional
    assert len(online.statements) == 3
    within = online.in_transaction()
    assert within.transactional
    assert within.checksum == online.checksum
    assert within.sql == ONLINE.replace("INDEX CONCURRENTLY IF", "INDEX IF").replace("index concurrently", "index")
    assert join_migrations([online]) == ONLINE
    assert join_migrations([online], transaction=False) == within.sql
    assert all(migration.transactional for migration in SHIPPED), "nor is a word in a comment or a string one"


def test_dropped_index_is_looked_for_where_its_table_is() -> None:
    """The statement names no table, and the search_path may lead to another index of that name."""
    (rendered,) = render_migrations(
        [parse("0001_online_due.sql", ONLINE)], TableNames.of({"runs": 'r"'}), schema="flows"
    )
    drop, create, _ = rendered.statements
    assert drop.endswith('DROP INDEX CONCURRENTLY IF EXISTS "flows"."r""_due"')
    assert 'create index concurrently "r""_due" ON "flows"."r""" (due) WHERE note' in create
    (plain,) = render_migrations([parse("0001_drop.sql", "DROP INDEX workflow_runs_due;")], TableNames(), schema="s")
    assert plain.sql == 'DROP INDEX "s"."workflow_runs_due";'


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("0001_expand_due.sql", ONLINE),
        ("0001_online_due.sql", ONLINE.replace("DROP INDEX CONCURRENTLY IF EXISTS workflow_runs_due;", "")),
        ("0001_online_due.sql", ONLINE + ONLINE),
        ("0001_online_due.sql", ONLINE + "DELETE FROM workflow_events;"),
        ("0001_online_due.sql", ONLINE.partition("INSERT")[0]),
        ("0001_online_due.sql", ONLINE + "CREATE INDEX CONCURRENTLY workflow_runs_x ON workflow_runs (x);"),
        ("0001_online_due.sql", "REINDEX INDEX CONCURRENTLY workflow_runs_due;"),
    ],
)
def test_migration_that_cannot_be_sent_again_is_refused(name: str, text: str) -> None:
    """A file without a transaction that was stopped must go on from any of its statements."""
    with pytest.raises(InvalidMigrationError, match="CONCURRENTLY is for a migration whose phase is online"):
        parse(name, text)
