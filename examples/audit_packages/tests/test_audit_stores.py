"""Where the audit can be kept, and the whole audit on a real Postgres: worker processes, kills and the verdict."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import asyncpg
import demo
import pytest
from audit_packages.environment import copy_environment
from audit_packages.planning import make_plan, spread_kills
from audit_packages.planting import plant_changes
from audit_packages.scene import Scene
from audit_packages.stores import StorePlace, clear_room, make_room, open_store
from audit_packages.verdict import MINIMUM_KILLS, MINIMUM_STEPS
from workflow_test_support.servers.postgres_server import postgres_dsn

Install = Callable[[str, dict[str, bytes]], Path]

OPTIONS = argparse.Namespace(workers=2, lease=1.5, timeout=90.0)


@pytest.fixture(scope="module")
def dsn() -> Iterator[str]:
    with postgres_dsn() as dsn:
        yield dsn


@pytest.fixture
def scene(dsn: str, prefix: Path, tmp_path: Path, install: Install) -> Scene:
    """Many small files, so that the audit has its steps, and two changes."""
    sources = [install(name, {f"{name}/{i}.py": f"{name} {i}".encode() for i in range(120)}) for name in "abcde"]
    distributions = copy_environment(prefix, sources, tmp_path / "copy", 1)
    plan = make_plan([distribution.files for distribution in distributions], MINIMUM_STEPS, 1)
    return Scene(
        folder=tmp_path,
        store=dsn.replace("postgresql://", "postgres://"),
        distributions=tuple(distributions),
        planted=plant_changes(distributions, 2, seed=1),
        plan=plan,
        kill_at=spread_kills(plan.steps, MINIMUM_KILLS),
    )


async def schemas(dsn: str) -> set[str]:
    connection = await asyncpg.connect(dsn)
    try:
        rows = await connection.fetch("SELECT nspname FROM pg_namespace WHERE nspname LIKE 'audit_demo_%'")
        return {row["nspname"] for row in rows}
    finally:
        await connection.close()


@pytest.mark.real_time
async def test_the_audit_on_postgres_passes_and_leaves_nothing_behind(
    scene: Scene, dsn: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beside the leftovers of another audit, which stay."""
    left = await make_room(dsn)
    status = await demo._perform(scene, OPTIONS)
    said = capsys.readouterr()
    assert status == 0, said.err
    assert f"kills survived                  {MINIMUM_KILLS} " in said.out
    [used] = re.findall("audit_demo_[0-9a-f]+", said.out)
    there = await schemas(dsn)
    assert used not in there
    assert left.schema in there
    await clear_room(left)


@pytest.mark.parametrize("scheme", ["postgres", "postgresql"])
async def test_both_spellings_of_a_url_lead_to_a_schema_of_its_own(dsn: str, scheme: str) -> None:
    location = f"{scheme}://{dsn.partition('://')[2]}"
    one, other = await make_room(location), await make_room(location)
    assert one.schema != other.schema
    async with open_store(one) as store:
        await store.ensure_schema()
        await store.check_schema()
    assert other.arguments() == ["--store", location, "--schema", other.schema]
    for place in (one, other):
        await clear_room(place)


async def test_a_path_is_a_sqlite_file(tmp_path: Path) -> None:
    place = await make_room(str(tmp_path / "audit.db"))
    async with open_store(place) as store:
        await store.ensure_schema()
    assert (tmp_path / "audit.db").exists()
    assert place.arguments() == ["--store", str(tmp_path / "audit.db")]


def test_another_url_is_refused() -> None:
    with pytest.raises(ValueError, match="mysql:// is unknown here"):
        StorePlace(location="mysql://localhost/app")


async def test_a_database_that_is_not_there_is_a_plain_message() -> None:
    with pytest.raises(ValueError, match=r"CREATE SCHEMA .* failed"):
        await make_room("postgres://postgres@127.0.0.1:1/postgres")
