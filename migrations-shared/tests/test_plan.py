import pickle

import pytest
from workflow_migrations import (
    AppliedMigration,
    ChecksumMismatchError,
    DatabaseAheadError,
    Migration,
    MigrationError,
    MigrationGapError,
    parse_migrations,
    plan_migrations,
)

MIGRATIONS = parse_migrations({"0000_a.sql": "A", "0001_b.sql": "B", "0002_c.sql": "C"})


def applied(*migrations: Migration, checksum: str | None = "") -> list[AppliedMigration]:
    return [
        AppliedMigration(migration_id=m.migration_id, checksum=m.checksum if checksum == "" else checksum)
        for m in migrations
    ]


@pytest.mark.parametrize("count", range(4))
def test_plan_is_what_is_missing_in_order(count: int) -> None:
    assert plan_migrations(applied(*MIGRATIONS[:count]), MIGRATIONS) == MIGRATIONS[count:]


def test_order_of_the_rows_does_not_matter() -> None:
    assert plan_migrations(applied(*reversed(MIGRATIONS)), MIGRATIONS) == ()


def test_migration_applied_by_hand_has_no_checksum_and_is_taken_as_it_is() -> None:
    assert plan_migrations(applied(*MIGRATIONS[:2], checksum=None), MIGRATIONS) == MIGRATIONS[2:]


def test_edited_file_is_refused() -> None:
    with pytest.raises(ChecksumMismatchError) as refused:
        plan_migrations(applied(MIGRATIONS[0], checksum="0" * 64), MIGRATIONS)
    assert refused.value.migration_id == "0000_a"


def test_database_that_knows_more_is_refused() -> None:
    with pytest.raises(DatabaseAheadError) as refused:
        plan_migrations(applied(*MIGRATIONS), MIGRATIONS[:1])
    assert refused.value.unknown == ("0001_b", "0002_c")


@pytest.mark.parametrize(("present", "missing"), [((0, 2), ("0001_b",)), ((2,), ("0000_a", "0001_b"))])
def test_gap_in_the_database_is_refused(present: tuple[int, ...], missing: tuple[str, ...]) -> None:
    with pytest.raises(MigrationGapError) as refused:
        plan_migrations(applied(*(MIGRATIONS[number] for number in present)), MIGRATIONS)
    assert refused.value.missing == missing


@pytest.mark.parametrize(
    "error", [ChecksumMismatchError("0000_a"), DatabaseAheadError(("x",)), MigrationGapError(("x",))]
)
def test_errors_survive_pickling(error: MigrationError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
