"""Released migrations never change, and the documents that name them say what the files say."""

import runpy
from pathlib import Path
from typing import Any

import pytest
from workflow_migrations import Migration, load_migrations, parse_migrations

SCRIPT: dict[str, Any] = runpy.run_path(str(Path(__file__).parents[1] / "scripts" / "render_migrations.py"))
STORES: dict[str, Path] = SCRIPT["STORES"]


@pytest.mark.parametrize("package", STORES)
def test_released_files_are_as_they_were_released(package: str) -> None:
    """Their checksums are in every database: an edited file would be refused there. Add a new one instead."""
    migrations, released = load_migrations(package), SCRIPT["read_released"](STORES[package])
    assert SCRIPT["changed"](migrations, released) == []
    assert [one.migration_id for one in migrations] == list(released), "run scripts/render_migrations.py"


def migration(text: str) -> tuple[Migration, ...]:
    return parse_migrations({"0000_a.sql": text})


def test_edited_and_removed_files_are_found() -> None:
    released = {one.migration_id: one.checksum for one in migration("SELECT 1;")}
    assert SCRIPT["changed"](migration("SELECT 1;\n"), released) == [], "editors change the end of a file by themselves"
    assert SCRIPT["changed"](migration("SELECT 2;"), released) == ["0000_a is released, and was edited"]
    assert SCRIPT["changed"]((), released) == ["0000_a is released, and gone"]


@pytest.mark.parametrize(("path", "text"), [*SCRIPT["rendered"]()], ids=lambda value: Path(str(value)[-60:]).name[:60])
def test_documents_say_what_the_files_say(path: Path, text: str) -> None:
    """Run `python scripts/render_migrations.py`."""
    assert path.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("package", STORES)
def test_each_file_records_itself(package: str) -> None:
    for one in load_migrations(package):
        record = one.statements[-1]
        assert record.startswith("INSERT INTO workflow_schema_migrations")
        assert f"'{one.migration_id}'" in record
        assert f"'{one.oldest_code}',\n    NULL," in record
