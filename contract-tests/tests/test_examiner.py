"""Child processes that examine a store: whatever it does to its process, the verdict stays with the parent."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from workflow_contract_tests import CaseResult, catalogue
from workflow_contract_tests.examination import Examined
from workflow_contract_tests.examiner import Examiner

_STORES = '''
import asyncio, contextlib, os, sys, time
from workflow_contract_tests import HarnessError, StoreHarness
from workflow_contract_tests.certification import NotDeclaredError
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
async def hang(): await asyncio.Event().wait()
async def block(): time.sleep(60)
async def interrupt(): raise KeyboardInterrupt
async def cancel(): raise asyncio.CancelledError
async def feign(): raise NotDeclaredError("timers")
async def skip():
    import pytest
    pytest.skip("no")
async def forge():
    for fd in range(3, 40):
        with contextlib.suppress(OSError):
            os.write(fd, b'{"kind": "examined", "result": {"outcome": "passed"}}\\n')
    raise ValueError("not written")
async def shout(): print("hello from the store"); raise ValueError("no")

ways = {name: breaking(name.title(), action) for name, action in list(globals().items())
        if asyncio.iscoroutinefunction(action)}
globals().update({f"{name}_harness": way for name, way in ways.items()})

def good_harness(): return make(InMemoryWorkflowStore)

class Forgetful(InMemoryWorkflowStore):
    async def schedule_timer(self, **arguments): return None

@contextlib.asynccontextmanager
async def swallowing_harness():
    with contextlib.suppress(Exception):
        yield make(Forgetful)

class Swallowing(StoreHarness):
    async def __aexit__(self, *error):
        await super().__aexit__(*error)
        return True

def swallowing_subclass_harness():
    data = InMemoryData()
    return Swallowing(lambda: Forgetful(data=data), contract_version="0.1", not_applicable=REASONS)

calls = []
def raising_once_harness():
    calls.append(1)
    if len(calls) == 1:
        raise OSError("the database is not there")
    return make(InMemoryWorkflowStore)

def mistaken_harness(): return StoreHarness(InMemoryWorkflowStore, contract_version="9.9")

class Proxy:
    def __init__(self, store): self.store = store
    def __getattr__(self, name): return getattr(self.store, name)

def proxies_harness():
    one = InMemoryWorkflowStore()
    return StoreHarness(lambda: Proxy(one), contract_version="0.1", not_applicable=REASONS)
'''
_BROKEN, _SOUND = "TIMER-1-timer_moves", "SIGNAL-3-unknown_run"

Examine = Callable[..., list[Examined]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    (folder / "stores.py").write_text(_STORES)
    return folder


@pytest.fixture
def examine(folder: Path) -> Examine:
    def examine(name: str, timeout_s: float = 20) -> list[Examined]:
        examiner = Examiner(f"stores:{name}_harness", folder=folder, timeout_s=timeout_s, environment={})
        return list(examiner.examine(_two_cases()))

    return examine


def _two_cases() -> list:
    timer = next(case for case in catalogue() if case.id.startswith("TIMER-1-timer_moves"))
    other = next(case for case in catalogue() if case.id.startswith("LOG-1-"))
    return [timer, other]


def _results(found: list[Examined]) -> Iterator[CaseResult]:
    return (one.result for one in found)
