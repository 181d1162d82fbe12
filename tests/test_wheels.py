"""Each distribution is complete in its wheel, and brings nothing that it does not need."""

import email
import email.message
import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import venv
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from workflow_test_support.servers import downloads
from workflow_test_support.servers.postgres_server import LocalServer

ROOT = Path(__file__).parents[1]
WORKER_PACKAGES = ("workflow_runtime", "workflow_migrations", "workflow_store_sql", "workflow_store_d1")
MAX_WORKER_BYTES = 900_000


def run(*command: str | Path, cwd: Path, status: int = 0) -> str:
    """Run a command as on a clean machine: no path, no index and no option from outside comes along.

    Gives what it prints; what it says is wrong, where it is to fail.
    """
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment | {"PIP_CONFIG_FILE": os.devnull, "PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == status, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stderr if status else done.stdout


def build(source: Path, target: Path, *kinds: str) -> None:
    """Build with the backend itself; it is in this environment, so that no index is asked."""
    flags = [word for kind in kinds for word in ("--target", kind)]
    run(sys.executable, "-m", "hatchling", "build", *flags, "--directory", target, cwd=source)


@pytest.fixture(scope="session")
def wheelhouse(folders: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels and source archives of every distribution."""
    target = tmp_path_factory.mktemp("wheelhouse")
    for folder in folders:
        build(folder, target, "sdist", "wheel")
    pack_again("cronsim", target)
    pack_again("click", target)
    return target


def pack_again(distribution: str, target: Path) -> None:
    """Make a wheel of what is installed in this environment: no index is asked for what ours require."""
    found = importlib.metadata.distribution(distribution)
    with zipfile.ZipFile(target / f"{distribution}-{found.version}-py3-none-any.whl", "w") as archive:
        for file in found.files or ():
            if file.suffix != ".pyc" and file.name not in {"INSTALLER", "REQUESTED", "direct_url.json"}:
                archive.write(str(file.locate()), str(file))


@pytest.fixture
def wheel(package: Path, wheelhouse: Path) -> Path:
    """The wheel of the distribution; ours are called as they are imported."""
    [wheel] = wheelhouse.glob(f"{package.name}-*.whl")
    return wheel


def contents(wheel: Path) -> dict[str, bytes]:
    """Read every file of a wheel, but its own list of them."""
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist() if not name.endswith("/RECORD")}


def metadata(wheel: Path) -> email.message.Message:
    """Read a wheel's metadata."""
    [text] = [data for name, data in contents(wheel).items() if name.endswith(".dist-info/METADATA")]
    return email.message_from_string(text.decode("utf-8"))


def test_wheel_holds_the_package_and_nothing_else(wheel: Path, package: Path) -> None:
    """Every source, SQL and marker file of the package, the licence, and no tests or caches."""
    source = {
        str(path.relative_to(package.parent)): path.read_bytes()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    packed = contents(wheel)
    extra = {name.split("/", 1)[1] for name in packed if ".dist-info/" in name}

    assert {name: data for name, data in packed.items() if ".dist-info/" not in name} == source
    assert f"{package.name}/py.typed" in packed
    assert extra - {"entry_points.txt"} == {"METADATA", "WHEEL", "licenses/LICENSE"}
    assert {Path(name).suffix for name in source} <= {".py", ".sql", ".typed"}


def test_wheel_runs_everywhere_and_says_what_it_is(wheel: Path, folder: Path) -> None:
    """Pure Python, with README, licence and bounded requirements on its siblings."""
    facts = metadata(wheel)
    readme = (folder / "README.md").read_text(encoding="utf-8")
    siblings = [item for item in facts.get_all("Requires-Dist", []) if item.startswith("workflow-")]

    assert wheel.name.endswith("-py3-none-any.whl")
    assert readme.strip()
    assert str(facts.get_payload()).strip() == readme.strip()
    assert facts["License-Expression"] == "MIT"
    assert facts["Author"] == "The workflow-runtime authors"
    links = dict(item.split(", ", 1) for item in facts.get_all("Project-URL", []))
    assert links.keys() == {"Documentation", "Source", "Changelog", "Issues"}
    inside = [link.split("/main/")[1] for link in links.values() if "/main/" in link]
    assert [path for path in inside if not (ROOT / path).exists()] == []
    assert facts["Requires-Python"] == ">=3.11"
    assert all(">=" in item and "<" in item for item in siblings), siblings


def test_source_archive_gives_the_same_wheel(wheel: Path, package: Path, tmp_path: Path) -> None:
    """Whoever builds from the source archive gets what we publish."""
    [archive] = wheel.parent.glob(f"{package.name}-*.tar.gz")
    flags = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", "again")
    run(sys.executable, "-m", "pip", "wheel", *flags, archive, cwd=tmp_path)

    assert contents(tmp_path / "again" / wheel.name) == contents(wheel)


def install_alone(distribution: str, wheelhouse: Path, folder: Path) -> Path:
    """Install one distribution from our wheels only, without an index; give the environment's interpreter."""
    venv.create(folder / "environment", symlinks=True)
    python = folder / "environment" / "bin" / "python"
    install_more(distribution, python, wheelhouse)
    return python


def install_more(distribution: str, python: Path, wheelhouse: Path) -> None:
    """Install one distribution into an environment, without an index."""
    arguments = ["install", "--no-index", "--find-links", str(wheelhouse), distribution]
    run(sys.executable, "-m", "pip", "--python", python, *arguments, cwd=python.parent)


def installed(python: Path) -> set[str]:
    """Name what is installed in an environment."""
    listing = run(sys.executable, "-m", "pip", "--python", python, "list", "--format", "json", cwd=python.parent)
    return {item["name"] for item in json.loads(listing)}


def test_memory_store_comes_alone(wheelhouse: Path, tmp_path: Path) -> None:
    """The runtime, the store and the cron library, pure Python, no driver: and a run can be created with them."""
    python = install_alone("workflow-store-memory", wheelhouse, tmp_path)
    script = """
import asyncio
from workflow_runtime.payloads import encode_json
from workflow_store_memory import InMemoryWorkflowStore

store = InMemoryWorkflowStore()
created = asyncio.run(
    store.create_run(
        run_id="a", workflow_id="w", workflow_version="1", input=encode_json(None), operation_id="o", now_ms=0
    )
)
print(created.kind)
"""

    assert run(python, "-c", script, cwd=tmp_path).split() == ["created"]
    assert installed(python) == {"cronsim", "workflow-runtime", "workflow-store-memory"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".so", ".pyd", ".dylib"}]


def test_d1_store_opens_a_file_from_its_wheel_alone(wheelhouse: Path, tmp_path: Path) -> None:
    """With our own wheels only, a file is opened and a run is created."""
    python = install_alone("workflow-store-d1", wheelhouse, tmp_path)
    script = """
import asyncio
from workflow_store_d1 import SQLiteWorkflowStore

async def main():
    async with SQLiteWorkflowStore.open("app.db") as store:
        await store.ensure_schema()
        created = await store.create_run(
            run_id="r", workflow_id="w", workflow_version="1", input="1", operation_id="o", now_ms=1
        )
        print(created.kind)

asyncio.run(main())
"""

    assert run(python, "-c", script, cwd=tmp_path).strip() == "created"
    ours = {"workflow-migrations", "workflow-runtime", "workflow-store-sql", "workflow-store-d1"}
    assert installed(python) == {"cronsim", *ours}


@pytest.mark.parametrize("module", [False, True])
def test_command_comes_with_an_extra(module: bool, wheelhouse: Path, tmp_path: Path) -> None:
    """Without the extra the script is there, and says what to install."""
    python = install_alone("workflow-store-d1", wheelhouse, tmp_path)
    command = [python, "-m", "workflow_store_d1"] if module else [python.parent / "workflow-store-d1"]
    told = run(*command, "path", cwd=tmp_path, status=2)
    assert told == 'the command needs click, which comes with an extra: pip install "workflow-store-d1[cli]"\n'

    install_more("workflow-store-d1[cli]", python, wheelhouse)
    folder = Path(run(*command, "path", cwd=tmp_path).strip())
    assert folder.is_relative_to(tmp_path)
    assert sorted(folder.glob("*.sql"))
    run(*command, "migrate", "--file", "app.db", cwd=tmp_path)
    assert run(*command, "check", "--deep", "--file", "app.db", cwd=tmp_path).startswith("this release can run")
    assert "click" in installed(python)


def test_command_is_an_extra_of_both_stores(wheelhouse: Path) -> None:
    """The script belongs to the store, click to those who use it."""
    for store in ("d1", "postgres"):
        [wheel] = wheelhouse.glob(f"workflow_store_{store}-*.whl")
        wanted = [item for item in metadata(wheel).get_all("Requires-Dist", []) if item.startswith("click")]
        assert [item.partition(";")[2].strip() for item in wanted] == ["extra == 'cli'"]
        [points] = [data for name, data in contents(wheel).items() if name.endswith("/entry_points.txt")]
        assert f"workflow-store-{store} = workflow_store_{store}.__main__:main" in points.decode()


def test_postgres_store_works_from_its_wheel(wheelhouse: Path, tmp_path: Path) -> None:
    """With asyncpg and our own wheels only, the tables are made and a run is created."""
    venv.create(tmp_path / "environment", symlinks=True)
    python = tmp_path / "environment" / "bin" / "python"
    arguments = ["install", "--no-index", "--no-deps", "--find-links", str(wheelhouse)]
    ours = ["workflow-migrations", "workflow-runtime", "workflow-store-sql", "workflow-store-postgres"]
    run(sys.executable, "-m", "pip", "--python", python, *arguments, *ours, cwd=tmp_path)
    [site_packages] = (tmp_path / "environment").glob("lib/*/site-packages")
    driver = importlib.util.find_spec("asyncpg")
    assert driver is not None
    assert driver.origin is not None
    # The driver is of this environment: no index is asked.
    (site_packages / "asyncpg").symlink_to(Path(driver.origin).parent)
    script = """
import asyncio, sys
from workflow_store_postgres import PostgresWorkflowStore

async def main():
    async with PostgresWorkflowStore.connect(sys.argv[1], schema="from_the_wheel") as store:
        await store.ensure_schema()
        created = await store.create_run(
            run_id="a", workflow_id="w", workflow_version="1", input="null", operation_id="o", now_ms=0
        )
        print(created.kind)

asyncio.run(main())
"""
    with LocalServer() as server:
        assert run(python, "-c", script, server.dsn, cwd=tmp_path).split() == ["created"]
    assert installed(python) == set(ours)


def required_by(wheels: Sequence[Path], where: dict[str, str]) -> list[str]:
    """Name what wheels require of others, without extras, in an environment of these markers."""
    wanted = [Requirement(text) for wheel in wheels for text in metadata(wheel).get_all("Requires-Dist", [])]
    foreign = [item for item in wanted if not item.name.startswith("workflow-")]
    # "" stands for no extra: the marker of an extra's requirement is then false.
    return sorted(
        {f"{item.name}{item.specifier}" for item in foreign if not item.marker or item.marker.evaluate(where)}
    )


def pure_wheels(requirements: Sequence[str]) -> list[Path]:
    """Fetch wheels that run on every machine, with what they require; others do not count."""

    def fetch(folder: Path) -> None:
        anywhere = ("--implementation", "py", "--abi", "none", "--platform", "any", "--only-binary", ":all:")
        downloads.run(sys.executable, "-m", "pip", "download", "--quiet", *anywhere, "--dest", folder, *requirements)

    name = hashlib.sha256(" ".join(requirements).encode()).hexdigest()[:12]
    return sorted(downloads.fetch_once(f"worker-wheels-{name}", fetch).glob("*.whl"))


def test_what_a_worker_installs_is_pure_python_and_small(wheelhouse: Path) -> None:
    """Cloudflare's Workers take no compiled package of ours, and 3 MB in all (10 on the paid plan), compressed."""
    ours = [next(wheelhouse.glob(f"{name}-*.whl")) for name in WORKER_PACKAGES]
    foreign = pure_wheels(required_by(ours, {"sys_platform": "emscripten", "extra": ""}))
    assert [wheel.name.partition("-")[0] for wheel in foreign] == ["cronsim", "tzdata"]

    files = {name: len(data) for wheel in [*ours, *foreign] for name, data in contents(wheel).items()}
    assert all(re.search(r"-(py2\.)?py3-none-any\.whl$", wheel.name) for wheel in [*ours, *foreign])
    assert not [name for name in files if Path(name).suffix in {".so", ".pyd", ".dylib", ".wasm", ".a"}]

    sizes = {wheel.name: wheel.stat().st_size for wheel in [*ours, *foreign]}
    for name, size in sizes.items():
        print(f"{size / 1000:8.1f} kB  {name}")
    print(f"{sum(sizes.values()) / 1000:8.1f} kB  together; {sum(files.values()) / 1000:.1f} kB when unpacked")
    assert sum(sizes.values()) < MAX_WORKER_BYTES


def test_tables_for_dashboards_are_an_extra(wheelhouse: Path) -> None:
    """SQLAlchemy comes to those only who ask for it."""
    for name in ("workflow_migrations", "workflow_store_sql", "workflow_store_d1", "workflow_store_postgres"):
        [wheel] = wheelhouse.glob(f"{name}-*.whl")
        facts = metadata(wheel)
        wanted = [item for item in facts.get_all("Requires-Dist", []) if item.startswith("sqlalchemy")]
        assert "sqlalchemy" in facts.get_all("Provides-Extra", [])
        assert [item.partition(";")[2].strip() for item in wanted] == ["extra == 'sqlalchemy'"]
