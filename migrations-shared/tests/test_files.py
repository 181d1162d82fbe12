from pathlib import Path

import pytest
from workflow_migrations import InvalidMigrationError, checksum, load_migrations, parse_migrations


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
