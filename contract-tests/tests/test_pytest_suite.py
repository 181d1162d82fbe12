"""The pytest shell: what a store author's test run looks like, in projects of every setting."""

import pytest

pytest_plugins = ["pytester"]

_HEAD = """
import pytest
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


def _run(
    pytester: pytest.Pytester, body: str, *arguments: str, mode: str = "strict", imports: str = "prepend"
) -> pytest.RunResult:
    pytester.makeini(_INI.format(mode=mode, imports=imports))
    pytester.makepyfile(test_mine=_HEAD + body)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rA", *arguments, timeout=120)


_GOOD = """
class TestMine(StoreContract):
    @pytest.fixture
    def harness(self):
        return make()
"""


@pytest.mark.parametrize("mode", ["strict", "auto"])
@pytest.mark.parametrize("imports", ["prepend", "importlib"])
def test_works_in_every_mode(pytester: pytest.Pytester, mode: str, imports: str) -> None:
    result = _run(pytester, _GOOD, "-k", "TIMER-3 or suite_is_whole", mode=mode, imports=imports)
    result.assert_outcomes(passed=3, deselected=None)
    result.stdout.fnmatch_lines(["PASSED *TIMER-3-removed_timer_never_fires*", "PASSED *test_suite_is_whole*"])
    assert result.ret == 0


def test_fixture_may_be_async_and_clean_up(pytester: pytest.Pytester) -> None:
    body = """
class TestMine(StoreContract):
    @pytest.fixture
    async def harness(self):
        yield make()
"""
    assert _run(pytester, body, "-k", "TIMER-1", mode="auto").ret == 0


def test_failure_shows_the_values(pytester: pytest.Pytester) -> None:
    result = _run(pytester, _GOOD.replace("make()", "make(Forgetful)"), "-k", "timer_moves")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["E *assert * == *"])


def test_declared_reason_is_shown(pytester: pytest.Pytester) -> None:
    result = _run(pytester, _GOOD, "-k", "processes_append")
    result.assert_outcomes(skipped=1, deselected=None)
    result.stdout.fnmatch_lines(["SKIPPED *not applicable: processes: one process"])


def test_undeclared_capability_is_shown(pytester: pytest.Pytester) -> None:
    result = _run(pytester, _GOOD.replace("make()", "make(Plain)"), "-k", "unknown_run_is_not_followed")
    result.assert_outcomes(skipped=1, deselected=None)
    result.stdout.fnmatch_lines(["SKIPPED *not applicable: subscribe: the store does not declare it"])


def test_missing_need_fails(pytester: pytest.Pytester) -> None:
    result = _run(pytester, _GOOD.replace("make()", "make(reasons={})"), "-k", "processes_append")
    result.assert_outcomes(failed=1, deselected=None)
    result.stdout.fnmatch_lines(["*gives no 'processes' and does not declare it*"])


def test_missing_fixture_is_an_error(pytester: pytest.Pytester) -> None:
    result = _run(pytester, "\nclass TestMine(StoreContract):\n    pass\n", "-k", "timer_moves")
    result.assert_outcomes(errors=1, deselected=None)
    result.stdout.fnmatch_lines(["*fixture 'harness' not found*"])


@pytest.mark.parametrize("name", ["test_clause", "test_suite_is_whole"])
def test_overriding_is_refused(pytester: pytest.Pytester, name: str) -> None:
    body = f"{_GOOD}\n    def {name}(self):\n        assert True\n"
    result = _run(pytester, body)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*TestMine overrides {name}; only the fixture*"])


def test_overriding_by_another_base_is_refused(pytester: pytest.Pytester) -> None:
    body = "\nclass Lax:\n    def test_clause(self):\n        pass\n" + _GOOD.replace(
        "TestMine(StoreContract)", "TestMine(Lax, StoreContract)"
    )
    _run(pytester, body).assert_outcomes(errors=1)


def test_replacing_afterwards_is_noticed(pytester: pytest.Pytester) -> None:
    body = f"{_GOOD}\nTestMine.test_clause = lambda self: None\n"
    result = _run(pytester, body, "-k", "suite_is_whole")
    result.assert_outcomes(failed=1, deselected=None)
    result.stdout.fnmatch_lines(["*test_clause was replaced*"])


_EXCUSED = """
class TestMine(StoreContract):
    xfail_clauses = {%r: "timers come later"}

    @pytest.fixture
    def harness(self):
        return make(%s)
"""


def test_known_failure_is_shown_with_its_reason(pytester: pytest.Pytester) -> None:
    result = _run(pytester, _EXCUSED % ("TIMER-1-timer_moves", "Forgetful"), "-k", "timer_moves")
    result.assert_outcomes(xfailed=1, deselected=None)
    result.stdout.fnmatch_lines(["XFAIL *timer_moves* - TIMER-1-timer_moves: timers come later"])
    assert result.ret == 0


def test_known_failure_that_passes_fails(pytester: pytest.Pytester) -> None:
    result = _run(pytester, _EXCUSED % ("TIMER-1", ""), "-k", "timer_moves")
    result.assert_outcomes(failed=1, deselected=None)
    result.stdout.fnmatch_lines(["*XPASS(strict)*timers come later*"])


@pytest.mark.parametrize(("key", "message"), [("TIMER-99", "no clause and no case"), ("LOG-1", "must say why")])
def test_excuse_must_make_sense(pytester: pytest.Pytester, key: str, message: str) -> None:
    reason = "" if key == "LOG-1" else "because"
    body = f"\nclass TestMine(StoreContract):\n    xfail_clauses = {{{key!r}: {reason!r}}}\n"
    result = _run(pytester, body)
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines([f"*{message}*"])
