"""Write what the migration files say into the documents that name them.

Run it after a new migration: `python scripts/render_migrations.py`. It writes the compatibility table of each store's
SCHEMA_MIGRATIONS.md, adds the new file to the list of checksums beside it, and copies those of D1 into the example of a
Worker. A file that is in the list is released: the script refuses one that has changed.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from workflow_migrations import Migration, load_migrations

ROOT = Path(__file__).parents[1]
STORES: Mapping[str, Path] = {
    "workflow_store_postgres": ROOT / "packages" / "workflow-store-postgres",
    "workflow_store_d1": ROOT / "packages" / "workflow-store-d1",
}
WORKER = ROOT / "examples" / "cloudflare-worker" / "migrations"
_TABLE = re.compile(r"(?<=^## Compatibility\n\n).*?\n(?=\n)", re.MULTILINE | re.DOTALL)


def released_file(store: Path) -> Path:
    """Return the list of a store's checksums: a line `CHECKSUM  ID` for each released migration."""
    return store / "released-migrations.txt"


def read_released(store: Path) -> dict[str, str]:
    """Return the checksums of a store's released migrations by id."""
    lines = released_file(store).read_text(encoding="utf-8").splitlines()
    return {migration_id: checksum for checksum, migration_id in (line.split() for line in lines)}


def changed(migrations: Sequence[Migration], released: Mapping[str, str]) -> list[str]:
    """Return what is wrong with the files of released migrations."""
    now = {migration.migration_id: migration.checksum for migration in migrations}
    gone = [f"{one} is released, and gone" for one in released if one not in now]
    edited = [f"{one} is released, and was edited" for one, was in released.items() if now.get(one, was) != was]
    return gone + edited


def render_released(migrations: Sequence[Migration]) -> str:
    """Return the list of checksums."""
    return "".join(f"{one.checksum}  {one.migration_id}\n" for one in migrations)


def render_table(migrations: Sequence[Migration], transactions: bool) -> str:
    """Return the table of a store's migrations.

    Args:
        migrations: What the store ships.
        transactions: Whether the store has migrations without a transaction, too.
    """
    columns = ["Migration", "Phase", "Ships with", "Oldest release that runs on it", "What it does"]
    rows = [columns, ["---"] * len(columns)]
    for one in migrations:
        phase = one.phase if one.transactional or not transactions else f"{one.phase}, without a transaction"
        rows.append([f"`{one.migration_id}`", phase, _ships_with(one), str(one.oldest_code), _purpose(one)])
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


def _ships_with(migration: Migration) -> str:
    _, version = re.findall(r"^    '([^']+)',$", migration.statements[-1], re.MULTILINE)[1:3]
    return str(version)


def _purpose(migration: Migration) -> str:
    return migration.sql.splitlines()[0].removeprefix(f"-- {migration.migration_id}: ")


def render_page(store: Path, migrations: Sequence[Migration]) -> str:
    """Return a store's SCHEMA_MIGRATIONS.md with its table."""
    text = page_of(store).read_text(encoding="utf-8")
    table = render_table(migrations, any(not one.transactional for one in migrations))
    return _TABLE.sub(lambda _: table, text, count=1)


def page_of(store: Path) -> Path:
    """Return the document that has a store's table."""
    return store / "SCHEMA_MIGRATIONS.md"


def rendered() -> Iterator[tuple[Path, str]]:
    """Yield each document with its text."""
    for package, folder in STORES.items():
        migrations = load_migrations(package)
        yield page_of(folder), render_page(folder, migrations)
        yield released_file(folder), render_released(migrations)
    for migration in load_migrations("workflow_store_d1"):
        yield worker_copy(migration), migration.sql


def worker_copy(migration: Migration) -> Path:
    """Return where the example of a Worker has a migration: Wrangler applies the files of its folder by their names.

    The application's own files are numbered too. So ours bear the number of the moment at which they came.
    """
    [known] = [*WORKER.glob(f"*{migration.migration_id}.sql")] or [
        WORKER / f"{len([*WORKER.iterdir()]):04}_workflow_{migration.migration_id}.sql"
    ]
    return known


def main() -> int:
    """Write everything, unless a released file has changed."""
    wrong = [
        problem
        for package, folder in STORES.items()
        if released_file(folder).exists()
        for problem in changed(load_migrations(package), read_released(folder))
    ]
    if wrong:
        print("\n".join(wrong), file=sys.stderr)
        return 1
    for path, text in rendered():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
