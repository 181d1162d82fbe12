"""The Worker, from its migrations to its last cron call. All of it is real, but for the clock."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from workflow_test_support.pyodide.program import Setting, run_in_pyodide
from workflow_test_support.servers.node_tools import wrangler

FOLDER = Path(__file__).parents[1]
ROOT = FOLDER.parents[1]
STORE_MIGRATIONS = ROOT / "packages" / "workflow-store-d1" / "src" / "workflow_store_d1" / "migrations"
PROGRAM = "from story import tell_story; await tell_story(env, emit)"
MAX_QUERIES = 50


@pytest.fixture(scope="module")
def configuration() -> dict[str, Any]:
    """What wrangler.jsonc says."""
    text = (FOLDER / "wrangler.jsonc").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(re.sub(r"^\s*//.*$", "", text, flags=re.MULTILINE))
    return found


@pytest.fixture(scope="module")
def told(configuration: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Deploy a copy, tell it the story, and give what each phase answered and cost."""
    folder = tmp_path_factory.mktemp("worker") / "copy"
    shutil.copytree(FOLDER, folder, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    applied = wrangler(folder, "d1", "migrations", "apply", "orders", "--local")
    assert "0001_shop.sql" in applied
    [database] = configuration["d1_databases"]
    setting = Setting(
        path=[folder / "src", Path(__file__).parent],
        variables={**configuration["vars"], "API_TOKEN": "secret"},
        own_binding=True,
        persist=folder / ".wrangler" / "state" / "v3" / "d1",
        database_id=database["database_id"],
    )
    phases = run_in_pyodide(PROGRAM, setting)
    return {phase.pop("phase"): phase for phase in phases}


def test_order_is_driven_to_its_end_by_the_handlers_alone(told: dict[str, dict[str, Any]]) -> None:
    """Started, paid, approved and slept over, with nothing but `fetch` and `scheduled`."""
    assert told["start"] | {"cost": {}} == {"status": 202, "answer": {"run_id": "order-7"}, "cost": {}}
    assert told["placed"]["answer"] == {"status": "queued", "waits_for": []}
    assert told["unpaid"]["answer"] == {"status": "paused", "waits_for": ["paid"]}
    assert told["pay"]["answer"] == {"payment": "delivered"}
    assert told["undecided"]["answer"] == {"status": "paused", "waits_for": ["ship"]}
    assert told["approve"]["answer"] == {"approval": "delivered"}
    assert told["cooling off"]["answer"] == {"status": "paused", "waits_for": []}
    assert sum(told["too early"]["answer"]["claimed"].values()) == 0
    assert told["ended"]["answer"] == {"status": "finished", "waits_for": [], "outcome": "shipped"}
    assert told["tables"]["answer"]["orders"] == [{"order_id": 7, "amount": 2500, "status": "shipped"}]


def test_schedule_fires_from_cron(told: dict[str, dict[str, Any]]) -> None:
    """The report of the next morning is written, once."""
    assert told["report"]["answer"]["ticks"] == {"started": 1}
    assert told["tables"]["answer"]["daily_reports"] == [{"day": "2030-01-02", "shipped": 1}]


def test_repeats_change_nothing(told: dict[str, dict[str, Any]]) -> None:
    """An order starts once, a payment counts once, the first decision holds."""
    assert (told["start again"]["status"], told["start again"]["answer"]) == (200, {"run_id": "order-7"})
    assert told["start otherwise"]["status"] == 409
    assert told["pay again"]["answer"] == {"payment": "duplicate"}
    assert told["refuse"]["answer"] == {"approval": "already-decided"}
    assert (told["pay too late"]["status"], told["pay too late"]["answer"]) == (409, {"payment": "finished"})


@pytest.mark.parametrize(
    ("phase", "status"),
    [
        ("wrong token", 401),
        ("wrong body", 400),
        ("no body", 400),
        ("no json", 400),
        ("endless number", 400),
        ("broken number", 400),
        ("number in words", 400),
        ("truth for a number", 400),
        ("number below zero", 400),
        ("number beyond all orders", 400),
        ("amount below zero", 400),
        ("vague approval", 400),
        ("nobody's approval", 400),
        ("wrong path", 404),
        ("unknown order", 404),
        ("payment of an unknown order", 404),
    ],
)
def test_wrong_requests_are_answered(told: dict[str, dict[str, Any]], phase: str, status: int) -> None:
    """Whatever is wrong with a request is said, and costs no exception."""
    assert told[phase]["status"] == status
    assert told[phase]["answer"]["error"]


def test_nothing_but_a_clear_yes_approves(told: dict[str, dict[str, Any]]) -> None:
    """What is not `true` or `false` decides nothing, least of all the text "false"."""
    assert told["still undecided"]["answer"] == {"status": "paused", "waits_for": ["ship"]}


def test_every_call_stays_within_the_free_plan(told: dict[str, dict[str, Any]]) -> None:
    """Each call of the Worker makes at most 50 queries; the table says how many, and what is billed."""
    phases = {phase: facts["cost"] for phase, facts in told.items() if "cost" in facts}
    columns = ("requests", "queries", "rows_read", "rows_written")
    print("", f"{'phase':<28}" + "".join(f"{column:>13}" for column in columns), sep="\n")
    for phase, cost in phases.items():
        print(f"{phase:<28}" + "".join(f"{cost[column]:>13}" for column in columns))
    assert {phase: cost for phase, cost in phases.items() if cost["queries"] > MAX_QUERIES} == {}
    assert phases["idle"]["rows_written"] == 0


def test_migrations_are_those_of_the_package() -> None:
    """The copies that Wrangler applies are the package's files, byte for byte, and come in their order."""
    theirs = sorted(STORE_MIGRATIONS.glob("*.sql"))
    assert theirs
    copies = [path for path in sorted((FOLDER / "migrations").glob("*.sql")) if path.name != "0001_shop.sql"]
    assert [copy.read_bytes() for copy in copies] == [path.read_bytes() for path in theirs]
    assert all(copy.name.endswith(path.name) for copy, path in zip(copies, theirs, strict=True))


def test_configuration_names_what_is_there(configuration: dict[str, Any]) -> None:
    """The entry exists, and the migrations lie where Wrangler looks for them."""
    assert (FOLDER / configuration["main"]).is_file()
    [database] = configuration["d1_databases"]
    assert (FOLDER / database["migrations_dir"] / "0001_shop.sql").is_file()
    assert configuration["triggers"]["crons"]
