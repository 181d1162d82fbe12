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


PHASES = parse_migrations(
    {"0000_a.sql": "A", "0001_expand_b.sql": "B", "0002_contract_c.sql": "C", "0003_contractors.sql": "D"}
)


def test_phase_stands_in_the_name() -> None:
    assert [one.phase for one in PHASES] == ["expand", "expand", "contract", "expand"]


def test_contract_migration_may_wait() -> None:
    """The next release expands, though an earlier one has not contracted yet."""
    assert plan_migrations(applied(PHASES[0], PHASES[1], PHASES[3]), PHASES) == (PHASES[2],)
    later = AppliedMigration(migration_id="0004_expand_x", checksum="c", oldest_code="0.1")
    assert plan_migrations([*applied(PHASES[0], PHASES[1], PHASES[3]), later], PHASES, version="0.1") == (PHASES[2],)


def test_expand_migration_may_not() -> None:
    with pytest.raises(MigrationGapError) as refused:
        plan_migrations(applied(PHASES[0], PHASES[2]), PHASES)
    assert refused.value.missing == ("0001_expand_b",)


def test_edited_file_is_refused() -> None:
    with pytest.raises(ChecksumMismatchError) as refused:
        plan_migrations(applied(MIGRATIONS[0], checksum="0" * 64), MIGRATIONS)
    assert refused.value.migration_id == "0000_a"


def test_database_that_knows_more_is_refused() -> None:
    with pytest.raises(DatabaseAheadError) as refused:
        plan_migrations(applied(*MIGRATIONS), MIGRATIONS[:1])
    assert refused.value.unknown == ("0001_b", "0002_c")


def newer(*oldest_codes: str | None) -> list[AppliedMigration]:
    """All that the package knows, and migrations of later releases."""
    return applied(*MIGRATIONS) + [
        AppliedMigration(migration_id=f"{number:04}_expand_x", checksum="c", oldest_code=oldest_code)
        for number, oldest_code in enumerate(oldest_codes, start=3)
    ]


@pytest.mark.parametrize("version", ["0.2", "0.2.0", "0.2.1", "0.10", "1.0", "0.2.0rc1", "0.2.0.dev3"])
def test_code_that_is_new_enough_works_on_a_newer_database(version: str) -> None:
    assert plan_migrations(newer("0.2.0", "0.1.9"), MIGRATIONS, version=version) == ()


@pytest.mark.parametrize("version", ["0.1", "0.1.99", "0", "", "next"])
def test_code_that_is_too_old_is_refused_with_what_it_needs(version: str) -> None:
    with pytest.raises(DatabaseAheadError, match=r"need 0\.10 or later: 0003_expand_x, 0004_expand_x") as refused:
        plan_migrations(newer("0.2.0", "0.10"), MIGRATIONS, version=version)
    assert refused.value.needed == "0.10"


@pytest.mark.parametrize("oldest_codes", [(None,), ("0.1", None), ("soon",), ("",)])
def test_newer_database_that_does_not_say_is_refused(oldest_codes: tuple[str | None, ...]) -> None:
    with pytest.raises(DatabaseAheadError):
        plan_migrations(newer(*oldest_codes), MIGRATIONS, version="9.9")


def test_newer_database_must_have_all_that_is_older() -> None:
    rows = [row for row in newer("0.1") if row.migration_id != "0002_c"]
    with pytest.raises(MigrationGapError):
        plan_migrations(rows, MIGRATIONS, version="0.1")


@pytest.mark.parametrize(("present", "missing"), [((0, 2), ("0001_b",)), ((2,), ("0000_a", "0001_b"))])
def test_gap_in_the_database_is_refused(present: tuple[int, ...], missing: tuple[str, ...]) -> None:
    with pytest.raises(MigrationGapError) as refused:
        plan_migrations(applied(*(MIGRATIONS[number] for number in present)), MIGRATIONS)
    assert refused.value.missing == missing


@pytest.mark.parametrize(
    "error", [ChecksumMismatchError("0000_a"), DatabaseAheadError(("x",), "0.2"), MigrationGapError(("x",))]
)
def test_errors_survive_pickling(error: MigrationError) -> None:
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
