"""`checked`: which arguments may be absent is the contract's word, whatever a store writes into its annotations."""

import functools
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, Optional

import pytest
from workflow_runtime import InvalidArgumentError
from workflow_runtime.store import NewEvent, StoreCapabilities, checked
from workflow_runtime.store.arguments import _optional_by_contract
from workflow_runtime.store.protocol import BulkStore, RunLifecycleStore


class Unannotated:
    """A store whose author annotates in another way, or not at all."""

    capabilities = StoreCapabilities(durable=False, max_payload_bytes=1_000)

    @checked
    async def cancel_run(self, *, run_id, now_ms, reason):  # type: ignore[no-untyped-def]
        return reason

    @checked
    async def create_run(self, *, run_id: Any, owner: Optional[str], lease_ms: "Optional[int]" = None) -> Any:  # noqa: UP045
        return owner

    @checked
    async def finish(self, *, run_id: "NoneSuch", reason: Any = None) -> Any:  # type: ignore[name-defined]  # noqa: F821
        return reason


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [("cancel_run", {"now_ms": 1, "reason": None}), ("create_run", {"owner": None}), ("finish", {})],
)
async def test_an_argument_that_the_contract_requires_is_refused_when_it_is_none(
    verb: str, arguments: dict[str, Any]
) -> None:
    with pytest.raises(InvalidArgumentError, match="run_id"):
        await getattr(Unannotated(), verb)(run_id=None, **arguments)


@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("cancel_run", {"run_id": "r", "now_ms": 1, "reason": None}),
        ("create_run", {"run_id": "r", "owner": None, "lease_ms": None}),
        ("finish", {"run_id": "r", "reason": None}),
    ],
)
async def test_an_argument_that_may_be_absent_may_be_none(verb: str, arguments: dict[str, Any]) -> None:
    assert await getattr(Unannotated(), verb)(**arguments) is None


def test_the_contract_says_which_arguments_may_be_none() -> None:
    assert _optional_by_contract("deliver_signal") == frozenset({"payload"})
    assert _optional_by_contract("create_run") == frozenset({"available_at_ms", "owner", "lease_ms"})
    assert _optional_by_contract("no_verb_of_the_contract") is None


def test_a_checked_verb_keeps_its_name_and_documentation() -> None:
    assert Unannotated.cancel_run.__name__ == RunLifecycleStore.cancel_run.__name__


class Order(StrEnum):
    FIRST = "order-1"


class Forwarding:
    """A store whose verbs have the signatures of the contract's own."""

    capabilities = StoreCapabilities(durable=False, max_payload_bytes=1_000)

    @checked
    @functools.wraps(BulkStore.cancel_runs)
    async def cancel_runs(self, **given: Any) -> Any:
        return given


async def test_ids_of_a_list_come_in_as_plain_strings() -> None:
    store: Any = Forwarding()
    given = await store.cancel_runs(run_ids=[Order.FIRST, "order-2"], now_ms=1)

    assert given["run_ids"] == ["order-1", "order-2"]
    assert [type(run_id) for run_id in given["run_ids"]] == [str, str]


@pytest.mark.parametrize("run_ids", [[""], "order-1", ["order-1", "\0"]])
async def test_a_verb_with_the_contract_s_signature_is_checked(run_ids: Sequence[str]) -> None:
    store: Any = Forwarding()
    with pytest.raises(InvalidArgumentError, match="run_ids"):
        await store.cancel_runs(run_ids=run_ids, now_ms=1)


def _counted(verb: Any) -> Any:
    @functools.wraps(verb)
    async def call(*args: Any, **kwargs: Any) -> Any:
        return await verb(*args, **kwargs)

    return call


class Wrapped:
    """A store whose verbs are decorated twice, and whose first parameter has a name of its own."""

    capabilities = StoreCapabilities(durable=False, max_payload_bytes=1_000)

    @checked
    @_counted
    async def load_run(run_id: Any, *, now_ms: int) -> int:  # noqa: N805
        return now_ms


async def test_parameters_are_those_of_the_wrapped_method_without_the_first() -> None:
    assert await Wrapped().load_run(now_ms=5) == 5
    with pytest.raises(InvalidArgumentError, match="now_ms"):
        await Wrapped().load_run(now_ms=-1)


class Writes:
    """The arguments that come in each step."""

    capabilities = StoreCapabilities(durable=False, max_payload_bytes=1_000)

    @checked
    async def append_events(
        self,
        *,
        run_id: str,
        expected_next_index: int,
        lease_ms: int,
        events: Sequence[NewEvent] = (),
        removed_timers: Sequence[str] = (),
    ) -> tuple[object, ...]:
        return run_id, expected_next_index, lease_ms, events, removed_timers


GOOD: dict[str, Any] = {"run_id": "r", "expected_next_index": 0, "lease_ms": 1}


@pytest.mark.parametrize(
    "wrong",
    [
        {"run_id": ()},
        {"run_id": ""},
        {"run_id": "x" * 513},
        {"run_id": "\N{SNOWMAN}" * 171},
        {"run_id": "a\0b"},
        {"run_id": "\ud800"},
        {"run_id": b"r"},
        {"expected_next_index": -1},
        {"expected_next_index": True},
        {"expected_next_index": 2**53},
        {"expected_next_index": "0"},
        {"lease_ms": 0},
        {"lease_ms": False},
        {"lease_ms": ()},
        {"removed_timers": ("",)},
        {"removed_timers": "t"},
    ],
    ids=str,
)
async def test_what_is_checked_without_a_call_is_checked_all_the_same(wrong: dict[str, Any]) -> None:
    """Most arguments are let through by their type and size alone; each of these is not."""
    with pytest.raises(InvalidArgumentError, match=next(iter(wrong))):
        await Writes().append_events(**GOOD | wrong)


@pytest.mark.parametrize("run_id", ["x" * 512, "\N{SNOWMAN}" * 170, " ", "\x7f"], ids=len)
async def test_the_longest_ids_and_odd_ones_are_let_through(run_id: str) -> None:
    arguments = GOOD | {"run_id": run_id, "lease_ms": 2**53 - 1}
    assert await Writes().append_events(**arguments) == (run_id, 0, 2**53 - 1, (), ())
