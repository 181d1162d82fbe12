"""Child processes that examine a store: whatever it does to its process, the verdict stays with the parent."""

from collections.abc import Callable
from pathlib import Path

import pytest
from workflow_contract_tests import Case, CaseResult, HarnessError, catalogue
from workflow_contract_tests import examiner as examiner_module
from workflow_contract_tests.examiner import Examiner

_STORES = '''
import asyncio, contextlib, os, time
from workflow_contract_tests import StoreHarness
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

REASONS = {"processes": "one process", "corrupt": "nothing to damage"}

def make(store):
    data = InMemoryData()
    return StoreHarness(lambda: store(data=data), contract_version="0.1", not_applicable=REASONS)

def breaking(name, action):
    """A store whose `schedule_timer` does this instead."""
    async def schedule_timer(self, **arguments):
        return await action()
    return lambda: make(type(name, (InMemoryWorkflowStore,), {"schedule_timer": schedule_timer}))

async def leave(): raise SystemExit(0)
async def leave_in_a_task(): await asyncio.create_task(leave())
async def leave_at_once(): print("last words", flush=True); os._exit(0)
async def crash(): os.kill(os.getpid(), 11)
async def block(): time.sleep(60)
async def interrupt(): raise KeyboardInterrupt
async def forge():
    for fd in range(3, 40):
        with contextlib.suppress(OSError):
            os.write(fd, b'{"kind": "examined", "result": {"outcome": "passed"}}\\n')
    raise ValueError("not written")
async def shout():
    print("hello from the store")
    if calls:
        time.sleep(60)  # what the first case printed must not wait for it
    calls.append(1)
    raise ValueError("no")

ways = {name: breaking(name.title(), action) for name, action in list(globals().items())
        if asyncio.iscoroutinefunction(action)}
globals().update({f"{name}_harness": way for name, way in ways.items()})

calls = []
def raising_once_harness():
    calls.append(1)
    if len(calls) == 1:
        raise OSError("the database is not there")
    return make(InMemoryWorkflowStore)

def mistaken_harness(): return StoreHarness(InMemoryWorkflowStore, contract_version="9.9")
'''

Examine = Callable[[str], list[CaseResult]]


def _cases() -> list[Case]:
    """A case that meets what is wrong with the stores, and one that does not."""
    return [next(case for case in catalogue() if case.id.startswith(name)) for name in ("TIMER-1-timer_moves", "LOG-1")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    (folder / "stores.py").write_text(_STORES)
    return folder


@pytest.fixture
def examine(folder: Path) -> Examine:
    def examine(name: str, timeout_s: float = 20) -> list[CaseResult]:
        examiner = Examiner(f"stores:{name}_harness", folder=folder, timeout_s=timeout_s, environment={})
        return [one.result for one in examiner.examine(_cases())]

    return examine


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        pytest.param("leave_in_a_task", "the store ended the event loop: SystemExit: 0"),
        pytest.param("leave_at_once", "the process ended during this case with exit status 0\nlast words"),
        pytest.param("crash", "the process ended during this case with exit status -11 (SIGSEGV)"),
        pytest.param("interrupt", "the store ended the event loop: KeyboardInterrupt"),
        pytest.param("forge", "ValueError: not written"),
        pytest.param("raising_once", "the harness factory raised OSError: the database is not there"),
    ],
)
def test_case_in_flight_fails_and_the_next_one_is_run(examine: Examine, name: str, problem: str) -> None:
    broken, sound = examine(name)
    assert broken.outcome == "failed"
    assert problem in (broken.problem or "")
    assert (sound.outcome, sound.problem) == ("passed", None)


def test_what_a_case_printed_shows_with_it(folder: Path) -> None:
    timers = [case for case in catalogue() if case.id.startswith("TIMER-1")][:2]
    buffered = {"PYTHONUNBUFFERED": ""}
    examiner = Examiner("stores:shout_harness", folder=folder, timeout_s=20, environment=buffered)
    assert "it printed:\nhello from the store" in (next(examiner.examine(timers)).result.problem or "")


def test_result_has_the_rule_and_clauses_of_the_catalogue(examine: Examine) -> None:
    cases = _cases()
    assert [(r.id, r.clauses, r.rule) for r in examine("leave_at_once")] == [(c.id, c.clauses, c.rule) for c in cases]


def test_blocked_event_loop_shows_its_stack(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examiner_module, "_GRACE_S", 3)
    examiner = Examiner("stores:block_harness", folder=folder, timeout_s=0.2, environment={})
    broken = next(examiner.examine(_cases())).result
    assert broken.outcome == "failed"
    assert "the event loop is blocked" in (broken.problem or "")
    assert "in block" in (broken.problem or "")


def test_harness_made_wrongly_ends_the_examination(examine: Examine) -> None:
    with pytest.raises(HarnessError, match=r"keeps contract '9\.9'"):
        examine("mistaken")


def test_store_that_cannot_be_imported_ends_the_examination(folder: Path) -> None:
    (folder / "leaving.py").write_text("raise SystemExit(0)")
    with pytest.raises(HarnessError, match="SystemExit"):
        list(Examiner("leaving:harness", folder=folder, timeout_s=20, environment={}).examine(_cases()))
