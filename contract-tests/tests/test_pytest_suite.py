"""The pytest shell: what a store author's test run looks like, in projects of every setting.

Most of such a run is the start of pytest. So a project has a file for each thing to see, and one pytest runs them all.
"""

import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import pytest
from workflow_contract_tests import catalogue

_HEAD = """
from pathlib import Path

import pytest
import pytest_asyncio
from workflow_contract_tests import StoreHarness
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_runtime.store import StoreCapabilities
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

REASONS = {"processes": "one process", "corrupt": "nothing to damage"}

def make(store=InMemoryWorkflowStore, reasons=REASONS):
    data = InMemoryData()
    return StoreHarness(lambda: store(data=data), contract_version="0.1", not_applicable=reasons)

class Forgetful(InMemoryWorkflowStore):
    async def schedule_timer(self, **arguments):
        return None

class Unscheduled(InMemoryWorkflowStore):
    async def upsert_schedule(self, **arguments):
        raise NotImplementedError

class Plain(InMemoryWorkflowStore):
    @property
    def capabilities(self):
        return StoreCapabilities(max_payload_bytes=1_000_000, durable=False)
"""

_INI = """
[pytest]
asyncio_mode = {mode}
asyncio_default_fixture_loop_scope = function
addopts = --import-mode={imports} --strict-markers --strict-config
filterwarnings = error
"""


@dataclass(frozen=True)
class File:
    """A file of a project."""

    body: str
    chosen: Sequence[str] = ()
    """Expression of `-k` that chooses its tests; all of them when absent."""

    def arguments(self, path: str) -> list[str]:
        """Return what pytest is asked to run."""
        tests = ["test_suite_is_whole", *(f"test_clause[{case.id}]" for case in catalogue())]
        name = re.findall(r"^class (Test\w+)", self.body, re.MULTILINE)[-1]
        return [f"{path}::{name}::{test}" for test in tests if any(word in test for word in self.chosen)] or [path]


@dataclass(frozen=True)
class Seen:
    """The visible outcome of a run, for a store author."""

    code: int
    text: pytest.LineMatcher
    files: Mapping[str, Sequence[tuple[str, pytest.LineMatcher]]]
    """The outcomes of each file, and what is said of them."""
    folder: Path

    def outcomes(self, name: str) -> list[str]:
        """Return the outcomes of a file."""
        return [outcome for outcome, _ in self.files[name]]

    def only(self, name: str) -> tuple[str, pytest.LineMatcher]:
        """Return the outcome of a file that has one, and what is said of it."""
        [found] = self.files[name]
        return found


def _run(folder: Path, files: Mapping[str, File], mode: str = "strict", imports: str = "prepend") -> Seen:
    (folder / "pytest.ini").write_text(_INI.format(mode=mode, imports=imports))
    wanted = []
    for name, file in files.items():
        (folder / f"test_{name}.py").write_text(_HEAD + file.body)
        wanted += file.arguments(f"test_{name}.py")
    options = ["-p", "no:cacheprovider", "-rA", "--continue-on-collection-errors", "--junit-xml=seen.xml"]
    command = [sys.executable, "-m", "pytest", *options, *wanted]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=110, check=False)
    assert (folder / "seen.xml").exists(), done.stdout + done.stderr
    seen: dict[str, list[tuple[str, pytest.LineMatcher]]] = {name: [] for name in files}
    for case in ElementTree.parse(folder / "seen.xml").iter("testcase"):
        name = (case.get("classname") or case.get("name") or "").partition(".")[0]
        seen[name.removeprefix("test_")].append(_outcome(case))
    return Seen(done.returncode, pytest.LineMatcher(done.stdout.splitlines()), seen, folder)


def _outcome(case: ElementTree.Element) -> tuple[str, pytest.LineMatcher]:
    for word, tag in (("error", "error"), ("failed", "failure"), ("skipped", "skipped")):
        if (found := case.find(tag)) is not None:
            said = f"{found.get('message')}\n{found.text or ''}".splitlines()
            return "xfailed" if found.get("type") == "pytest.xfail" else word, pytest.LineMatcher(said)
    return "passed", pytest.LineMatcher([])


_GOOD = """
class TestMine(StoreContract):
    @pytest.fixture
    def harness(self):
        return make()
"""
_ASYNC = """
class TestMine(StoreContract):
    @{library}.fixture
    async def harness(self):
        yield make()
        Path("cleaned-up").touch()
"""
_EXCUSED = """
class TestMine(StoreContract):
    xfail_clauses = {%r: %r}

    @pytest.fixture
    def harness(self):
        return make(%s)
"""


@pytest.fixture(scope="module", params=["strict-prepend", "auto-importlib"])
def passing(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A run in which all is as it should be, in a project of each setting."""
    mode, _, imports = request.param.partition("-")
    files = {
        "good": File(_GOOD, ["TIMER-3", "suite_is_whole"]),
        "async": File(_ASYNC.format(library="pytest" if mode == "auto" else "pytest_asyncio"), ["TIMER-1"]),
        "excused": File(_EXCUSED % ("TIMER-1-timer_moves", "timers come later", "Forgetful"), ["timer_moves"]),
    }
    folder = tmp_path_factory.mktemp("passing")
    if mode == "auto":  # a project that uses another part of the kit before
        (folder / "conftest.py").write_text("import workflow_contract_tests.scenarios\n")
    return _run(folder, files, mode, imports)


def test_works_in_every_mode(passing: Seen) -> None:
    assert passing.code == 0
    assert passing.outcomes("good") == ["passed", "passed", "passed"]
    passing.text.fnmatch_lines_random(["PASSED *TIMER-3-removed_timer_never_fires*", "PASSED *test_suite_is_whole*"])


def test_fixture_may_be_async_and_clean_up(passing: Seen) -> None:
    assert set(passing.outcomes("async")) == {"passed"}
    assert (passing.folder / "cleaned-up").exists()


def test_known_failure_is_shown_with_its_reason(passing: Seen) -> None:
    assert passing.outcomes("excused") == ["xfailed"]
    passing.text.fnmatch_lines(["XFAIL *timer_moves* - TIMER-1-timer_moves: timers come later"])


_MARKED = """
@pytest.mark.skip(reason="later")
class TestMine(StoreContract):
    @pytest.fixture
    def harness(self):
        return make()
"""
_SKIPPING = """
class TestMine(StoreContract):
    @pytest.fixture
    def harness(self):
        pytest.skip("no database")
"""
_ABSENT = """
class TestAbsent(StoreContract):
    server_may_be_absent = True

    @pytest.fixture
    def harness(self):
        pytest.skip("no database")
"""
_DESELECTING = """
def pytest_collection_modifyitems(config, items):
    gone = [item for item in items if "test_deselected" in item.nodeid and "TIMER-1" in item.nodeid]
    config.hook.pytest_deselected(items=gone)
    items[:] = [item for item in items if item not in gone]
"""


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Seen:
    """A run in which something is wrong with most files."""
    good = _GOOD.replace("TestMine", "TestDeselected")
    unscheduled = _GOOD.replace("make()", "make(Unscheduled)")
    files = {
        "declared": File(_GOOD, ["processes_append"]),
        "plain": File(_GOOD.replace("make()", "make(Plain)"), ["unknown_run_is_not_followed"]),
        "forgetful": File(_GOOD.replace("make()", "make(Forgetful)"), ["timer_moves"]),
        "unscheduled": File(
            f"{unscheduled}\n    without_schedules = True\n", ["good_ids_of_schedules", "story_on_a_schedule"]
        ),
        "unwritten": File(unscheduled, ["good_ids_of_schedules"]),
        "needy": File(_GOOD.replace("make()", "make(reasons={})"), ["processes_append"]),
        "bare": File("\nclass TestMine(StoreContract):\n    pass\n", ["timer_moves"]),
        "marked": File(_MARKED, ["timer_moves"]),
        "skipping": File(_SKIPPING, ["timer_moves"]),
        "absent": File(_ABSENT, ["timer_moves"]),
        "deselected": File(good, ["TIMER-3", "timer_moves"]),
        "replaced": File(f"{_GOOD}\nTestMine.test_clause = lambda self: None\n", ["suite_is_whole"]),
        "needless": File(_EXCUSED % ("TIMER-1", "timers come later", ""), ["timer_moves"]),
    }
    folder = tmp_path_factory.mktemp("mixed")
    (folder / "conftest.py").write_text(_DESELECTING)
    return _run(folder, files)


def test_run_with_a_failure_fails(mixed: Seen) -> None:
    assert mixed.code == 1


def test_declared_reason_is_shown(mixed: Seen) -> None:
    assert mixed.outcomes("declared") == ["skipped"]
    mixed.text.fnmatch_lines(["SKIPPED *not applicable: processes: one process"])


def test_undeclared_capability_is_shown(mixed: Seen) -> None:
    assert mixed.outcomes("plain") == ["skipped"]
    mixed.text.fnmatch_lines(["SKIPPED *not applicable: subscribe: the store does not declare it"])


def test_schedules_that_are_not_written_are_shown(mixed: Seen) -> None:
    assert mixed.outcomes("unscheduled") == ["skipped"] * 2
    mixed.text.fnmatch_lines(["SKIPPED *not written: NotImplementedError*"])


def test_failure_shows_the_values(mixed: Seen) -> None:
    outcome, said = mixed.only("forgetful")
    assert outcome == "failed"
    said.fnmatch_lines(["E *assert * == *"])


def test_server_that_may_be_absent_is_a_skip_which_certifies_nothing(mixed: Seen) -> None:
    assert mixed.outcomes("absent") == ["skipped"]
    assert not [line for line in mixed.text.lines if line.startswith("TestAbsent: certified")]


def test_summary_counts_what_did_not_run(mixed: Seen) -> None:
    assert "passed" in mixed.outcomes("deselected")
    mixed.text.fnmatch_lines(["TestDeselected: not certified; core: not certified (of * cases * did not run)*"])


@pytest.mark.parametrize(
    ("name", "outcome", "message"),
    [
        pytest.param("needy", "failed", "gives no 'processes' and does not declare it", id="missing need"),
        pytest.param("unwritten", "failed", "NotImplementedError", id="a verb that is not written"),
        pytest.param("bare", "error", "fixture 'harness' not found", id="missing fixture"),
        pytest.param("marked", "error", "no mark, fixture or store may skip it", id="skipped by a mark"),
        pytest.param("skipping", "error", "no mark, fixture or store may skip it", id="skipped in the fixture"),
        pytest.param("replaced", "failed", "test_clause was replaced", id="replaced afterwards"),
        pytest.param("needless", "failed", "[[]XPASS(strict)]*timers come later", id="known failure that passes"),
    ],
)
def test_what_is_wrong_is_refused(mixed: Seen, name: str, outcome: str, message: str) -> None:
    found, said = mixed.only(name)
    assert found == outcome
    said.fnmatch_lines([f"*{message}*"])
