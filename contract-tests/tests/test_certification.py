"""Running cases in this process: outcomes, what a failure says, and every way to pass without being right."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from workflow_contract_tests import Case, CaseResult, HarnessError, StoreHarness, catalogue, certify, certify_async
from workflow_contract_tests.certification import NotDeclaredError
from workflow_contract_tests.levels import SCHEDULE_VERBS
from workflow_contract_tests.pytest_suite import StoreContract
from workflow_runtime.store import StoreCapabilities
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore


def _case(name: str = "LOG-1-append_is_a_compare_and_swap") -> Case:
    return next(case for case in catalogue() if case.id == name)


def _with_body(body: Any, **changes: Any) -> Case:
    return Case(**({"name": "made_up", "clauses": ("LOG-1",), "rule": "A rule.", "body": body} | changes))


def _harness(store: type[InMemoryWorkflowStore] = InMemoryWorkflowStore, **overrides: Any) -> StoreHarness:
    data = InMemoryData()
    arguments = {"contract_version": "0.1", "not_applicable": {"processes": "one", "corrupt": "none"}} | overrides
    return StoreHarness(lambda: store(data=data), **arguments)


def _raising(error: BaseException) -> type[InMemoryWorkflowStore]:
    """A store whose appends raise this."""

    class Raising(InMemoryWorkflowStore):
        async def append_events(self, **arguments: Any) -> Any:
            raise error

    return Raising


def _only(factory: Any, case: Case | None = None, **options: Any) -> CaseResult:
    (result,) = certify(factory, [case or _case()], **options).results
    return result


def test_failure_is_reported_with_its_place_and_cause() -> None:
    async def fails(harness: StoreHarness) -> None:
        try:
            raise OSError("the disk is full")
        except OSError as error:
            raise AssertionError("one is not two") from error

    report = certify(_harness, [_with_body(fails)])
    (result,) = report.results
    assert result.outcome == "failed"
    assert "one is not two" in (result.problem or "")
    assert "caused by OSError: the disk is full" in (result.problem or "")
    assert report.failed_clauses() == ("LOG-1",)
    assert "## Failed" in report.as_markdown()


def test_group_of_errors_shows_its_members() -> None:
    result = _only(lambda: _harness(_raising(ExceptionGroup("many", [ValueError("one"), OSError("two")]))))
    assert "- ValueError: one\n  - OSError: two" in (result.problem or "")


def test_missing_need_is_not_run_and_not_certified() -> None:
    needy = _with_body(_case().body, needs=("processes",))
    report = certify(lambda: _harness(not_applicable={"corrupt": "none"}), [needy])
    assert [result.outcome for result in report.results] == ["not-run"]
    assert "gives no 'processes'" in (report.results[0].problem or "")
    assert report.failed_clauses() == ("LOG-1",)


def test_declared_need_is_not_applicable_and_shown() -> None:
    needy = _with_body(_case().body, needs=("processes",))
    report = certify(_harness, [needy])
    assert [result.outcome for result in report.results] == ["not-applicable"]
    assert "processes: one" in report.as_markdown()


def test_store_that_hangs_fails_with_the_stacks_of_its_tasks() -> None:
    class Hanging(InMemoryWorkflowStore):
        async def append_events(self, **arguments: Any) -> Any:
            await asyncio.Event().wait()

    result = _only(lambda: _harness(Hanging), timeout_s=0.05)
    assert result.outcome == "failed"
    assert "no end after 0.05 s" in (result.problem or "")
    assert "in flight: append_events" in (result.problem or "")
    assert "in append_events: await asyncio.Event().wait()" in (result.problem or "")


def test_handles_are_closed_also_after_a_failure() -> None:
    closed: list[int] = []

    class Closing(InMemoryWorkflowStore):
        async def close(self) -> None:
            closed.append(1)

    async def fails(harness: StoreHarness) -> None:
        await harness.handles(3)
        raise AssertionError("no")

    certify(lambda: _harness(Closing), [_with_body(fails)])
    assert len(closed) == 3


async def test_reopening_closes_every_handle_before_it_opens_one() -> None:
    steps: list[str] = []

    class Noting(InMemoryWorkflowStore):
        def __init__(self, **arguments: Any) -> None:
            super().__init__(**arguments)
            steps.append("open")

        async def close(self) -> None:
            steps.append("close")

    data = InMemoryData()
    async with StoreHarness(lambda: Noting(data=data), contract_version="0.1") as harness:
        await harness.handles(3)
        before = harness.store
        await harness.reopen()
        assert harness.store is not before
    assert steps == [*["open"] * 3, *["close"] * 3, *["open"] * 3, *["close"] * 3]


@contextlib.contextmanager
def _plain_manager() -> Iterator[StoreHarness]:
    yield _harness()


@contextlib.asynccontextmanager
async def _async_manager() -> AsyncIterator[StoreHarness]:
    yield _harness()


async def _coroutine() -> StoreHarness:
    return _harness()


@pytest.mark.parametrize("factory", [_harness, _plain_manager, _async_manager, _coroutine])
def test_harness_factories_of_every_kind(factory: Any) -> None:
    assert certify(factory, [_case()]).of("passed")


def test_harness_factory_that_gives_something_else() -> None:
    with pytest.raises(HarnessError, match="gave int"):
        certify(lambda: 7, [_case()])


def test_harness_factory_that_raises_costs_one_case() -> None:
    turns = iter([OSError("no database"), None])

    def factory() -> StoreHarness:
        if (error := next(turns)) is not None:
            raise error
        return _harness()

    report = certify(factory, [_case(), _case("LOG-1-events_keep_every_field")])
    assert [result.outcome for result in report.results] == ["failed", "passed"]
    assert "the harness factory raised OSError: no database" in (report.results[0].problem or "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"contract_version": "9.9"}, "keeps contract '9.9'"),
        ({"not_applicable": {"speed": "slow"}}, "names 'speed'"),
        ({"not_applicable": {"processes": " "}}, "must say why"),
        ({"process_factory": "a:b", "not_applicable": {"processes": "no"}}, "given and declared not applicable"),
    ],
)
def test_harness_put_together_wrongly(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(HarnessError, match=message):
        _harness(**arguments)


class _Proxy:
    """A handle that is none."""

    def __init__(self, store: InMemoryWorkflowStore) -> None:
        self._store = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


class _Facade(InMemoryWorkflowStore):
    """Another one, which writes its verbs out."""

    def __init__(self, store: InMemoryWorkflowStore) -> None:
        super().__init__()
        self.inner = store


@pytest.mark.parametrize("wrap", [lambda store: store, _Proxy, _Facade], ids=["the same", "proxy", "facade"])
def test_one_store_behind_all_handles_is_refused(wrap: Any) -> None:
    store = InMemoryWorkflowStore()
    with pytest.raises(HarnessError, match="it must give independent handles"):
        certify(lambda: StoreHarness(lambda: wrap(store), contract_version="0.1"), [_case()])


class _Skipped(BaseException):
    """What a test framework skips with."""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (SystemExit(0), "the store raised SystemExit"),
        (_Skipped(), "the store raised _Skipped"),
        (NotDeclaredError("log"), "NotDeclaredError, which is the kit's own"),
        (asyncio.CancelledError(), "CancelledError"),
        (StopAsyncIteration(), "StopAsyncIteration"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_error_that_would_pass_for_an_excuse_fails(error: BaseException, said: str) -> None:
    result = _only(lambda: _harness(_raising(error)))
    assert result.outcome == "failed"
    assert said in (result.problem or "")


@contextlib.asynccontextmanager
async def _swallowing() -> AsyncIterator[StoreHarness]:
    with contextlib.suppress(Exception):
        yield _harness(_raising(ValueError("lost")))


class _SwallowingHarness(StoreHarness):
    async def __aexit__(self, *error: Any) -> bool:  # type: ignore[override]
        await super().__aexit__(*error)
        return True


def _swallowing_by_itself() -> StoreHarness:
    store = _raising(ValueError("lost"))
    return _SwallowingHarness(store, contract_version="0.1", not_applicable={"processes": "one", "corrupt": "none"})


@pytest.mark.parametrize("factory", [_swallowing, _swallowing_by_itself])
def test_harness_that_swallows_errors_hides_nothing(factory: Any) -> None:
    result = _only(factory)
    assert result.outcome == "failed"
    assert "ValueError: lost" in (result.problem or "")


def test_harness_that_swallows_the_timeout_hides_nothing() -> None:
    class Hanging(InMemoryWorkflowStore):
        async def append_events(self, **arguments: Any) -> Any:
            await asyncio.Event().wait()

    data = InMemoryData()
    harness = _SwallowingHarness(lambda: Hanging(data=data), contract_version="0.1")
    assert "no end after" in (_only(lambda: harness, timeout_s=0.05).problem or "")


def test_system_exit_in_a_task_of_the_store_is_no_end_of_the_caller() -> None:
    class Leaving(InMemoryWorkflowStore):
        async def append_events(self, **arguments: Any) -> Any:
            async def leave() -> None:
                raise SystemExit(0)

            await asyncio.create_task(leave())

    with pytest.raises(HarnessError, match="the store raised SystemExit in a task of its own"):
        certify(lambda: _harness(Leaving), [_case()])


async def test_cancelled_certification_is_cancelled() -> None:
    async def hangs(harness: StoreHarness) -> None:
        await asyncio.Event().wait()

    running = asyncio.create_task(certify_async(_harness, [_with_body(hangs)]))
    await asyncio.sleep(0.05)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


def test_store_that_polls_is_no_store_that_hangs() -> None:
    class Polling(InMemoryWorkflowStore):
        """Awaits more often each time, as one does that reads what others have written."""

        times = 0

        async def deliver_signal(self, **arguments: Any) -> Any:
            type(self).times += 10
            for _ in range(self.times):
                await asyncio.sleep(0)
            return await super().deliver_signal(**arguments)

    assert _only(lambda: _harness(Polling), _case("ERROR-2-run_call_cut_short-deliver_signal")).outcome == "passed"


def test_capabilities_that_change_certify_nothing() -> None:
    turns = iter([True, False])

    def factory() -> StoreHarness:
        class Fickle(InMemoryWorkflowStore):
            capabilities = StoreCapabilities(max_payload_bytes=2_000_000, durable=False, subscribe=next(turns))

        return _harness(Fickle)

    report = certify(factory, [_case(), _case("LOG-1-events_keep_every_field")])
    assert report.capabilities == ("subscribe",)
    assert report.objections == ("the store declares other capabilities from case to case",)


def test_verb_that_is_missing_or_not_implemented_is_not_written() -> None:
    class Partial(_Proxy):
        def __getattr__(self, name: str) -> Any:
            if name == "upsert_schedule":
                raise AttributeError(name=name, obj=object())
            return super().__getattr__(name)

    schedules = _case("SCHEDULE-1-good_ids_of_schedules_come_back")
    missing = StoreHarness(lambda: Partial(InMemoryWorkflowStore()), contract_version="0.1")
    assert _only(lambda: missing, schedules).outcome == "not-written"
    assert _only(lambda: _harness(_raising(NotImplementedError()))).outcome == "not-written"
    assert _only(lambda: _harness(_raising(AttributeError("oops")))).outcome == "failed"


@pytest.mark.timeout(400)
def test_store_without_schedules_passes_every_case_of_the_rest() -> None:
    """No case of another level needs a verb of schedules: one that does must say so by `clause(schedules=True)`."""

    class Unscheduled(InMemoryWorkflowStore):
        capabilities = StoreCapabilities(max_payload_bytes=2_000_000, durable=False)

    async def unwritten(self: Any, **arguments: Any) -> None:
        raise NotImplementedError

    for verb in SCHEDULE_VERBS:
        setattr(Unscheduled, verb, unwritten)
    report = certify(lambda: _harness(Unscheduled))
    assert [(result.id, result.problem) for result in report.of("failed", "not-run")] == []
    statuses = {verdict.level: verdict.status for verdict in report.levels}
    assert (statuses["core"], statuses["schedules"]) == ("certified", "not written")


@pytest.mark.parametrize("name", ["pytest_generate_tests", "test_clause", "test_suite_is_whole"])
def test_contract_class_that_overrides_the_tests_is_refused(name: str) -> None:
    with pytest.raises(TypeError, match=f"overrides {name}; only the fixture"):
        type("TestMine", (StoreContract,), {name: lambda self: None})
    lax = type("Lax", (), {name: lambda self: None})
    with pytest.raises(TypeError, match=f"overrides {name}"):
        type("TestMine", (lax, StoreContract), {})


@pytest.mark.parametrize(
    ("excuses", "message"),
    [({"TIMER-99": "because"}, "no clause and no case"), ({"LOG-1": ""}, "must say why")],
)
def test_contract_class_with_a_wrong_excuse_is_refused(excuses: dict[str, str], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        type("TestMine", (StoreContract,), {"xfail_clauses": excuses})
