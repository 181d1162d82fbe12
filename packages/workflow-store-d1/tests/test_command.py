"""The command `workflow-store-d1`, on SQLite files and on D1 over HTTP. What it shares with others is tested here."""

import asyncio
import io
import json
import logging
import re
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from workflow_runtime.errors import ConfigurationError
from workflow_store_d1 import D1WorkflowStore, get_migration_sql, get_migrations
from workflow_store_d1.__main__ import main
from workflow_store_sql import Schema
from workflow_test_support.servers.d1_rest import RestDatabase

FIRST, EXPAND, FAILED, TERMINAL, CONTRACT, WAITING, QUEUE = IDS = [one.migration_id for one in get_migrations()]
ONLINE = [FAILED, TERMINAL, WAITING, QUEUE]
CAN_RUN = "this release can run on these tables"
MARKER = "quokka-7"
"""A word that is in nothing that anybody says by himself."""


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Call = Callable[..., Done]


@pytest.fixture(autouse=True)
def no_account(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ACCOUNT_ID", "DATABASE_ID", "D1_DATABASE_ID", "API_TOKEN"):
        monkeypatch.delenv(f"CLOUDFLARE_{name}", raising=False)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Run the command in this process; its answer to a question comes as `typed`."""

    def call(*words: str | Path, typed: str = "") -> Done:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        capsys.readouterr()
        status = main([str(word) for word in words])
        return Done(status, *capsys.readouterr())

    return call


@pytest.fixture
def at(call: Call, path: Path) -> Call:
    """The same for the file."""
    return lambda *words, **typed: call(*words, "--file", path, **typed)


def run_sql(path: Path, script: str) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.executescript(script)


def rows(path: Path, sql: str) -> list[Any]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()


def recorded(path: Path) -> list[str]:
    return [row[0] for row in rows(path, "SELECT migration_id FROM workflow_schema_migrations ORDER BY migration_id")]


@pytest.fixture
def old(path: Path) -> Path:
    """The tables of the first release, made by sqlite3."""
    run_sql(path, get_migration_sql(to_id=FIRST))
    return path


@pytest.fixture
def new(path: Path, at: Call) -> Path:
    assert at("migrate").status == 0
    return path


@pytest.fixture
def by_hand(path: Path) -> Path:
    """Tables of this release, made by sqlite3: no checksum is recorded."""
    run_sql(path, get_migration_sql())
    return path


def test_new_file_from_a_process_to_the_last_line(tmp_path: Path) -> None:
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "workflow_store_d1", *words, "--file", "app.db"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)

    missing = run("status")
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr == "there is no such file: 'app.db'; `migrate` makes one\n"
    made = run("migrate")
    assert (made.returncode, made.stdout.splitlines()) == (0, [f"applied: {', '.join(IDS)}", CAN_RUN])
    assert made.stderr.endswith(f" applying {', '.join(IDS)}\n")
    status = run("status")
    lines = status.stdout.splitlines()
    assert (status.returncode, status.stderr, lines[-1]) == (0, "", CAN_RUN)
    assert lines[1].startswith("looked in: file app.db, server SQLite 3.")
    assert [line.split()[0] for line in lines if "shipped with" in line] == IDS
    assert all(line.endswith("checksum matches") for line in lines if "shipped with" in line)
    assert run("check", "--deep").returncode == 0


@pytest.mark.parametrize(
    "words", [["status"], ["plan"], ["check"], ["migrate", "--dry-run"], ["repair", "--record", FIRST]]
)
def test_file_that_is_not_there_is_not_made(at: Call, path: Path, words: list[str]) -> None:
    done = at(*words)
    assert (done.status, done.out) == (2, "")
    assert done.err == f"there is no such file: {str(path)!r}; `migrate` makes one\n"
    assert not path.exists()


def test_old_tables_are_upgraded_phase_by_phase(at: Call, old: Path) -> None:
    status = at("status", "--json")
    assert status.status == 1
    assert status.json["can_run"] is False
    assert status.json["verdict"] == (f"the database lacks the migrations {EXPAND}; run `workflow-store-d1 migrate`")
    assert status.json["missing"] == {"expand": [EXPAND], "online": ONLINE, "contract": [CONTRACT]}
    assert at("check").err == f"{status.json['verdict']}\n"

    assert at("migrate", "--phase", "expand").status == 0
    assert recorded(old) == [FIRST, EXPAND]
    done = at("migrate", "--json")
    assert done.json["applied"] == ONLINE
    assert [one["id"] for one in done.json["left"]] == [CONTRACT]
    assert recorded(old) == [one for one in IDS if one != CONTRACT]
    assert at("migrate").out.splitlines() == [
        "applied: nothing",
        f"left: {CONTRACT} (needs --phase contract, once no program of an earlier release runs)",
        CAN_RUN,
    ]
    assert at("migrate", "--phase", "contract").status == 0
    assert recorded(old) == IDS


def test_plan_and_dry_run_change_nothing(at: Call, old: Path) -> None:
    plan = at("plan")
    assert plan.out.splitlines() == [
        f"{EXPAND}  expand, transaction 1: which environment the tables belong to.",
        f"{FAILED}  online, transaction 2: finds runs that ended badly by their status.",
        f"{TERMINAL}  online, transaction 3: finds ended runs by their status and age.",
        f"{WAITING}  online, transaction 4: finds runs that wait by their status.",
        f"{QUEUE}  online, transaction 5: finds the runs of a queue that is not the default one.",
        f"later: {CONTRACT} (needs --phase contract, once no program of an earlier release runs)",
    ]
    assert (plan.status, at("plan", "--exit-code").status) == (0, 1)
    assert at("migrate", "--dry-run").out == plan.out
    assert [step["id"] for step in at("plan", "--phase", "expand", "--json").json["steps"]] == [EXPAND]
    everything = at("plan", "--phase", "contract", "--json").json
    assert [step["id"] for step in everything["steps"]] == [EXPAND, *ONLINE, CONTRACT]
    assert everything["later"] == []
    assert recorded(old) == [FIRST]
    at("migrate", "--phase", "contract")
    assert (at("plan", "--exit-code").status, at("plan").out) == (0, "nothing is to be applied\n")


def test_new_tables_are_one_unit(at: Call, path: Path) -> None:
    path.touch()
    steps = at("plan", "--phase", "expand", "--json").json["steps"]
    assert [(step["id"], step["unit"], step["transaction"]) for step in steps] == [(one, 1, True) for one in IDS]
    assert at("status").out.splitlines()[-1] == "the workflow tables are missing; run `workflow-store-d1 migrate`"


def documented(command: str) -> list[str]:
    """Return the keys of an answer, as the page has them."""
    page = (Path(__file__).parents[3] / "docs" / "migration-tools.md").read_text(encoding="utf-8")
    (keys,) = re.findall(rf"^\| `{command}` \| (`.*`) \|$", page, re.MULTILINE)
    return re.findall(r"`(\w+)`", keys)


@pytest.mark.parametrize(
    "words",
    [
        *(["status"], ["plan"], ["migrate"], ["check"], ["sql"], ["path"]),
        *(["repair", "--no-environment"], ["repair", "--environment", "production", "--yes"]),
    ],
)
def test_keys_of_json_are_documented(at: Call, call: Call, new: Path, words: list[str]) -> None:
    done = (call if words[0] in {"sql", "path"} else at)(*words, "--json")
    assert done.status == 0
    assert list(done.json) == ["command", *documented(words[0])]
    assert done.json["command"] == words[0]


def test_shapes_of_json(at: Call, call: Call, new: Path) -> None:
    status = at("status", "--json").json
    assert list(status["recorded"][0]) == ["id", "applied_at", "package_version", "oldest_code", "checksum"]
    assert status["recorded"][0]["applied_at"].startswith("20")
    assert status["place"].keys() == {"file", "server"}
    assert at("check", "--json").json == {"command": "check", "deep": False, "can_run": True}
    assert at("repair", "--record", FIRST, "--json").json == {"command": "repair", "changed": False, "change": None}
    sql = call("sql", "--json").json
    assert sql["migrations"][0].keys() == {"id", "phase", "does", "checksum"}
    run_sql(new, "DROP INDEX workflow_runs_created")
    damaged = at("check", "--deep", "--json")
    assert damaged.status == 1
    assert damaged.json == {
        "command": "check",
        "error": {
            "type": "SchemaDamagedError",
            "message": damaged.err.strip(),
            "problems": ["table 'workflow_runs' lacks the index 'workflow_runs_created'"],
        },
    }
    assert at("check").status == 0, "which looks at what is recorded only"


def test_sql_and_path_need_no_database(call: Call, tmp_path: Path) -> None:
    assert call("sql").out == get_migration_sql()
    assert call("sql", "--transaction").out == get_migration_sql(transaction=True)
    names = {"runs": 'app "runs"', "events": "app_events"}
    tables = [word for key, name in names.items() for word in ("--table", f"{key}={name}")]
    chosen = call("sql", "--ids", f"{FIRST}, {CONTRACT}", *tables)
    assert chosen.out == get_migration_sql(names, ids=[FIRST, CONTRACT])
    assert call("sql", "--from", EXPAND, "--to", FAILED).out == get_migration_sql(ids=[EXPAND, FAILED])
    unknown = call("sql", "--ids", "0009_none")
    assert (unknown.status, unknown.err[:36]) == (2, "there is no migration '0009_none'; t")
    folder = Path(call("path").out.strip())
    assert sorted(file.stem for file in folder.glob("*.sql")) == IDS
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["status"], "say where the tables are: --file FILE, or --account ID and --database ID"),
        (["status", "--account", "a", "--database", "d"], "CLOUDFLARE_API_TOKEN has no token"),
        (["status", "--file", "x", "--table", "runs"], "--table 'runs' is not of the form runs=app_runs"),
        (["sql", "--table", "lions=app"], "tables['lions']: there is no such table"),
        (["migrate", "--wait", "--lock-timeout", "5"], "leave out --lock-timeout"),
        (["migrate", "--lock-timeout", "nan"], "nan is no time"),
        (["migrate", "--lock-timeout", "0"], "0.0 is not in the range"),
        (["migrate", "--phase", "shrink"], "'shrink' is not one of"),
        (["repair", "--yes"], "give one of --record"),
        (["repair", "--environment", "a", "--no-environment"], "give one of --record"),
        (["destroy"], "No such command 'destroy'"),
        ([], "Missing command"),
    ],
)
def test_calls_that_cannot_work(call: Call, words: list[str], problem: str) -> None:
    done = call(*words)
    assert (done.status, done.out) == (2, "")
    assert problem in done.err


def test_what_is_no_database(at: Call, path: Path) -> None:
    path.write_text("this is a text, and no database of anybody's" * 100)
    done = at("status", "--json")
    assert done.status == 2
    assert done.json["error"]["type"] == "StoreOperationError"


def test_tables_of_others_are_shown_and_left_alone(at: Call, path: Path) -> None:
    run_sql(path, "CREATE TABLE workflow_runs (id INTEGER PRIMARY KEY)")
    status = at("status")
    assert status.status == 1
    assert "table 'workflow_runs' exists but belongs to something else" in status.out.splitlines()[-1]
    for words in (["plan"], ["migrate"], ["check"], ["repair", "--record", FIRST, "--yes"]):
        done = at(*words)
        assert (done.status, done.out) == (1, "")
        assert "belongs to something else" in done.err
    assert rows(path, "SELECT name FROM sqlite_master WHERE type = 'table'") == [("workflow_runs",)]


def test_database_that_is_ahead(at: Call, new: Path) -> None:
    values = f"'0007_contract_all', package_name, '9.0.0', '0.2.0', NULL, {10**18}, NULL"
    records = "workflow_schema_migrations"
    run_sql(new, f"INSERT INTO {records} SELECT {values} FROM {records} LIMIT 1")
    status = at("status")
    assert (status.status, status.out.splitlines()[-1]) == (0, CAN_RUN)
    assert "  0007_contract_all  at an unknown time  shipped with 9.0.0  unknown to this release" in status.out
    run_sql(new, "UPDATE workflow_schema_migrations SET oldest_code = '9.0.0' WHERE package_version = '9.0.0'")
    status = at("status", "--json")
    assert status.status == 1
    assert status.json["recorded"][-1]["checksum"] == "unknown"
    assert "upgrade workflow-store-d1 to 9.0.0 or later" in status.json["verdict"]
    assert at("migrate").status == at("check").status == at("plan").status == 1


def test_recorded_environment_is_shown_and_is_no_hindrance(at: Call, new: Path) -> None:
    run_sql(new, "UPDATE workflow_schema_migrations SET environment = 'production'")
    assert "environment: production" in at("status").out.splitlines()
    for words in (["check", "--deep"], ["plan"], ["migrate"]):
        assert at(*words).status == 0
    run_sql(new, "UPDATE workflow_schema_migrations SET environment = 'copy' WHERE migration_id LIKE '0000%'")
    status = at("status")
    assert (status.status, "environment: copy, production" in status.out) == (1, True)
    assert at("repair", "--environment", "copy", "--yes").status == 0
    assert at("check").status == 0


def test_environment_is_marked_after_a_question(at: Call, new: Path) -> None:
    marks = "SELECT DISTINCT environment FROM workflow_schema_migrations"
    refused = at("repair", "--environment", "production", typed="n\n")
    assert (refused.status, refused.out.strip()) == (1, "")
    assert refused.err.startswith("mark the tables with 'production'; before: no mark\nWrite that? [y/N]:")
    unanswered = at("repair", "--environment", "production")
    assert unanswered.status == 1
    assert rows(new, marks) == [(None,)]
    assert at("repair", "--environment", "production", typed="y\n").status == 0
    assert rows(new, marks) == [("production",)]
    again = at("repair", "--environment", "production")
    assert (again.status, again.out) == (0, "nothing is to be repaired\n")
    moved = at("repair", "--environment", "staging", "--yes", "--json")
    assert moved.json["change"] == "mark the tables with 'staging'; before: 'production'"
    assert "warning: programs of the environment that is recorded will refuse the tables" in moved.err
    assert at("repair", "--no-environment", "--yes").status == 0
    assert rows(new, marks) == [(None,)]
    assert at("repair", "--environment", " ", "--yes").status == 2


def test_old_tables_cannot_be_marked(at: Call, old: Path) -> None:
    done = at("repair", "--environment", "production", "--yes")
    assert (done.status, done.err) == (1, "these tables cannot be marked yet: run `workflow-store-d1 migrate`\n")


def test_checksums_are_filled_in_after_a_look(at: Call, by_hand: Path) -> None:
    assert at("status").out.count("no checksum recorded") == len(IDS)
    run_sql(by_hand, "DROP INDEX workflow_runs_created")
    refused = at("repair", "--checksum", FIRST, "--yes")
    assert (refused.status, "lacks the index 'workflow_runs_created'" in refused.err) == (1, True)
    run_sql(by_hand, "CREATE INDEX workflow_runs_created ON workflow_runs (created_at, run_id)")
    done = at("repair", "--checksum", FIRST, "--yes")
    assert (done.status, "warning" in done.err) == (0, False)
    assert [row["checksum"] for row in at("status", "--json").json["recorded"]] == [
        "matches",
        *["absent"] * (len(IDS) - 1),
    ]
    assert at("repair", "--checksum", FIRST).out == "nothing is to be repaired\n"


def test_checksum_that_differs_is_replaced_with_a_warning(at: Call, new: Path) -> None:
    run_sql(new, f"UPDATE workflow_schema_migrations SET checksum = 'abc' WHERE migration_id = '{FAILED}'")
    status = at("status")
    assert (status.status, "CHECKSUM DIFFERS" in status.out) == (1, True)
    asked = at("repair", "--checksum", FAILED, typed="n\n")
    assert asked.status == 1
    expected = get_migrations()[2].checksum
    assert f"record the checksum {expected} of {FAILED}; abc is recorded\n" in asked.err
    assert f"warning: {FAILED} was applied with another text than this package ships" in asked.err
    assert at("repair", "--checksum", FAILED, typed="y\n").status == 0
    assert at("check", "--deep").status == 0


def test_records_are_written_where_the_effects_are(at: Call, new: Path) -> None:
    run_sql(new, "DELETE FROM workflow_schema_migrations WHERE migration_id > '0000_z'")
    for migration_id in IDS[1:]:
        done = at("repair", "--record", migration_id, "--yes")
        assert (done.status, done.out) == (0, f"done: record {migration_id}: its effects are all there\n")
    assert at("check", "--deep").status == 0
    assert {row["checksum"] for row in at("status", "--json").json["recorded"]} == {"matches"}
    run_sql(new, "DELETE FROM workflow_schema_migrations")
    assert "a migration was applied in part" in at("status").out
    assert at("repair", "--record", EXPAND, "--yes").err == (f"{FIRST} is not recorded, which comes before {EXPAND}\n")


def test_first_record_is_written_again(at: Call, old: Path) -> None:
    run_sql(old, "DELETE FROM workflow_schema_migrations")
    assert at("repair", "--record", FIRST, "--yes").status == 0
    assert at("migrate", "--phase", "contract").status == 0


@pytest.mark.parametrize(
    ("migration_id", "lacks"),
    [
        (EXPAND, "table 'workflow_schema_migrations' lacks the column 'environment'"),
        (FAILED, f"{EXPAND} is not recorded, which comes before {FAILED}"),
        ("0009_none", "there is no migration '0009_none'"),
    ],
)
def test_records_of_what_is_not_there_are_refused(at: Call, old: Path, migration_id: str, lacks: str) -> None:
    done = at("repair", "--record", migration_id, "--yes")
    assert done.status in {1, 2}
    assert lacks in done.err
    assert recorded(old) == [FIRST]


def test_record_of_what_contracts_needs_what_goes_to_be_gone(at: Call, old: Path) -> None:
    at("migrate")
    done = at("repair", "--record", CONTRACT, "--yes")
    assert done.status == 1
    assert "table 'workflow_event_locks' still has the index 'workflow_event_locks_ended'" in done.err
    run_sql(old, "DROP INDEX workflow_event_locks_ended")
    assert at("repair", "--record", CONTRACT, "--yes").status == 0
    assert at("check", "--deep").status == 0


def test_repair_creates_no_tables(at: Call, path: Path) -> None:
    path.touch()
    for words in (["--record", FIRST], ["--checksum", FIRST], ["--environment", "production"]):
        assert at("repair", *words, "--yes").status == 1
    assert rows(path, "SELECT name FROM sqlite_master") == []


def test_repair_looks_again_before_it_writes(at: Call, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the question and its answer somebody else has done something."""

    def answer(*_: object, **__: object) -> bool:
        run_sql(new, "UPDATE workflow_schema_migrations SET environment = 'staging'")
        return True

    monkeypatch.setattr("click.confirm", answer)
    done = at("repair", "--environment", "production")
    assert (done.status, done.err.splitlines()[-1]) == (
        1, "somebody has changed what is recorded meanwhile: look again",
    )  # fmt: skip
    assert rows(new, "SELECT DISTINCT environment FROM workflow_schema_migrations") == [("staging",)]


def test_names_with_quotes(at: Call, path: Path) -> None:
    tables = ("--table", 'runs=the "runs" of x=y', "--table", "schema_migrations=it's applied")
    assert at("migrate", *tables).status == 0
    assert at("check", "--deep", *tables).status == 0
    assert at("repair", "--environment", "production", "--yes", *tables).status == 0
    assert rows(path, """SELECT DISTINCT environment FROM "it's applied" """) == [("production",)]
    run_sql(path, f"""DELETE FROM "it's applied" WHERE migration_id = '{TERMINAL}' """)
    assert at("repair", "--record", TERMINAL, "--yes", *tables).status == 0
    assert at("status").status == 1, "there are none of the default names"


def test_text_of_others_stays_within_its_line(at: Call, new: Path) -> None:
    run_sql(new, "UPDATE workflow_schema_migrations SET environment = 'a\x1b[2J' || char(10) || 'done'")
    assert "environment: a\\x1b[2J\\ndone" in at("status").out.splitlines()


async def test_file_that_others_write_is_waited_for(call: Call, old: Path) -> None:
    with closing(sqlite3.connect(old)) as other:
        other.execute("PRAGMA journal_mode = WAL")
        other.execute("BEGIN IMMEDIATE")
        done = await asyncio.to_thread(call, "migrate", "--lock-timeout", "0.2", "--file", old)
        assert done.status == 1
        task = asyncio.create_task(asyncio.to_thread(call, "migrate", "--wait", "--file", old))
        await asyncio.sleep(0.3)
        assert not task.done()
        other.rollback()
        assert (await task).status == 0


@pytest.mark.parametrize(
    ("words", "times"),
    [
        ([], (60, 600)),
        (["--lock-timeout", "7.5", "--migration-timeout", "3600"], (7.5, 3600)),
        (["--wait"], (86_400, 86_400)),
        (["--wait", "--migration-timeout", "30"], (86_400, 30)),
    ],
)
def test_times_of_a_migration(
    at: Call, words: list[str], times: tuple[float, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[timedelta] = []

    def refuse(*_: object, busy_timeout: timedelta, call_timeout: timedelta, **__: object) -> None:
        taken.extend((busy_timeout, call_timeout))
        raise ConfigurationError("enough")

    monkeypatch.setattr("workflow_store_d1.__main__.D1Tables.open", refuse)
    assert at("migrate", *words).status == 2
    assert tuple(time.total_seconds() for time in taken) == times


def test_interrupted_call_says_so(at: Call, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Schema, "check", interrupted)
    done = at("check")
    assert (done.status, done.err.strip()) == (1, "stopped: nothing more is done")


def test_damage_of_others_does_not_keep_a_record_from_being_written(at: Call, new: Path) -> None:
    run_sql(new, f"DELETE FROM workflow_schema_migrations WHERE migration_id = '{TERMINAL}'")
    run_sql(new, "DROP INDEX workflow_runs_created")
    assert at("repair", "--record", TERMINAL, "--yes").status == 0
    assert at("check", "--deep").status == 1


def test_unexpected_error_is_not_swallowed(at: Call, new: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Schema, "check", broken)
    with pytest.raises(ZeroDivisionError):
        at("check")


def test_loggers_are_left_as_they_were(at: Call, new: Path) -> None:
    for name in ("workflow_store_d1", "workflow_store_sql"):
        assert (logging.getLogger(name).level, logging.getLogger(name).handlers) == (logging.NOTSET, [])


def test_secrets_in_a_wrong_place_are_not_shown(call: Call) -> None:
    for words in (
        ["status", f"postgresql://u:{MARKER}@h/d"],
        ["migrate", "--lock-timeout", f"https://{MARKER}@h"],
        [f"--password={MARKER}", "status"],
        ["status", f"--json=password:{MARKER}"],
        ["status", "--token", MARKER],
    ):
        done = call(*words)
        assert done.status == 2
        assert MARKER not in done.out + done.err


def test_without_its_library_the_command_says_what_to_install(tmp_path: Path) -> None:
    (tmp_path / "click.py").write_text("raise ModuleNotFoundError('no click', name='click')")
    script = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); from workflow_store_d1.__main__ import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path), "status"], capture_output=True, text=True, check=False, timeout=60
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == 'the command needs click, which comes with an extra: pip install "workflow-store-d1[cli]"\n'


def test_importing_the_store_or_its_command_loads_no_click() -> None:
    script = "import sys, workflow_store_d1.__main__, workflow_store_sql.command; assert 'click' not in sys.modules"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


@pytest.fixture
def d1_call(call: Call, rest: RestDatabase, monkeypatch: pytest.MonkeyPatch) -> Call:
    """The command on D1 over HTTP."""
    defaults = D1WorkflowStore.connect_http.__func__.__kwdefaults__  # type: ignore[attr-defined]  # of a classmethod
    monkeypatch.setitem(defaults, "base_url", rest.base_url)
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", rest.token)
    monkeypatch.setenv("CLOUDFLARE_ACCOUNT_ID", rest.account_id)
    return lambda *words, **typed: call(*words, "--database", rest.database_id, **typed)


def test_d1_over_http(d1_call: Call, rest: RestDatabase) -> None:
    assert d1_call("status").status == 1
    assert d1_call("migrate").status == 0
    assert d1_call("check", "--deep").status == 0
    status = d1_call("status", "--json").json
    assert status["place"] == {"database": rest.database_id, "server": "Cloudflare D1"}
    assert [row["id"] for row in status["recorded"]] == IDS
    assert d1_call("repair", "--environment", "production", "--yes").status == 0
    rest.run("DELETE FROM workflow_schema_migrations WHERE migration_id = ?", FAILED)
    assert d1_call("repair", "--record", FAILED, "--yes").status == 0
    rest.run("UPDATE workflow_schema_migrations SET checksum = 'abc' WHERE migration_id = ?", FAILED)
    assert d1_call("repair", "--checksum", FAILED, "--yes").status == 0
    assert d1_call("status", "--json").json["environment"] == "production"


@pytest.mark.parametrize("words", [["status"], ["plan"], ["migrate"], ["check"], ["repair", "--no-environment"]])
def test_token_is_in_nothing_that_is_said(
    d1_call: Call, words: Sequence[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_TOKEN", MARKER)
    for more in ([], ["--json"]):
        done = d1_call(*words, *more)
        assert done.status == 2
        assert "D1:Edit" in done.err
        assert MARKER not in done.out + done.err + caplog.text
