"""Stores whose verbs are statements on a connection, and that get it wrong when the connection breaks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from memory_mutants import Faulty
from mutant_catalogue import MEMORY_MUTANTS, NOT_APPLICABLE, Mutant
from workflow_contract_tests import Statements, StoreHarness
from workflow_contract_tests.races.run_calls import RUN_CALLS
from workflow_contract_tests.races.schedule_calls import SCHEDULE_CALLS
from workflow_runtime.errors import StoreUnavailableError
from workflow_store_memory import InMemoryData, InMemoryWorkflowStore

_CASE = "run_call_disturbed"
S = TypeVar("S", bound="type[Connected]")


class Connected(Faulty):
    """A memory store each of whose writing verbs is one statement."""

    statements: Statements

    async def sent(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Send a verb as a statement."""
        try:
            return await self.statements.send(lambda: self.plainly(verb, arguments))
        except ConnectionResetError as error:
            raise StoreUnavailableError("the connection broke") from error

    async def plainly(self, verb: str, arguments: dict[str, Any]) -> Any:
        """Do what a verb does in memory."""
        return await getattr(InMemoryWorkflowStore, verb)(self, **arguments)


def _sending(verb: str) -> Callable[..., Awaitable[Any]]:
    async def call(self: Connected, **arguments: Any) -> Any:
        return await self.sent(verb, arguments)

    return call


for _verb in {call.verb for call in RUN_CALLS} | {call.verb for call in SCHEDULE_CALLS}:
    setattr(Connected, _verb, _sending(_verb))


def connected_harness(store: type[Connected]) -> StoreHarness:
    """A harness for such a store, with the statements of all its handles."""
    data, statements = InMemoryData(), Statements()

    def open_store() -> Connected:
        handle = store(data=data)
        handle.statements = statements
        return handle

    return StoreHarness(open_store, contract_version="0.1", not_applicable=NOT_APPLICABLE, statements=statements)


def broken(clause: str, words: str) -> Callable[[S], S]:
    """Put a faulty store class on the list."""

    def register(store: S) -> S:
        name = re.sub(r"(?<!^)(?=[A-Z])", "-", store.__name__).lower()
        story = (store.__doc__ or "").strip()
        harness = lambda: connected_harness(store)  # noqa: E731  # short
        MEMORY_MUTANTS.append(Mutant(name=name, clause=clause, story=story, harness=harness, words=words, case=_CASE))
        return store

    return register


@broken("ERROR-2", "never a part of it")
class TimersAreAStatementOfTheirOwn(Connected):
    """A pause sets its timers by one statement, and ends the lease by the next."""

    async def mark_run_paused(self, **arguments: Any) -> Any:
        run = self.run(arguments)

        async def set_timers() -> None:
            if run is not None and run.lease is not None and run.lease.token == arguments["lease_token"]:
                run.change_timers(arguments.get("set_timers", ()), ())

        try:
            await self.statements.send(set_timers)
        except ConnectionResetError as error:
            raise StoreUnavailableError("the connection broke") from error
        return await self.sent("mark_run_paused", arguments)


@broken("ERROR-1", "raises a `StoreError`")
class BrokenConnectionEscapes(Connected):
    """What the driver raises when the connection breaks is what the caller gets."""

    async def claim_run(self, **arguments: Any) -> Any:
        return await self.statements.send(lambda: self.plainly("claim_run", arguments))


@broken("ERROR-2", "the handle serves the next one")
class BrokenConnectionIsKept(Connected):
    """A handle whose connection broke once goes on with it."""

    _broken = False

    async def append_events(self, **arguments: Any) -> Any:
        try:
            return await self.sent("append_events", arguments)
        except StoreUnavailableError:
            self._broken = True
            raise

    async def list_runs(self, **arguments: Any) -> Any:
        if self._broken:
            raise StoreUnavailableError("the connection broke")
        return await super().list_runs(**arguments)


@broken("ERROR-2", "has made the call or not")
class NoAnswerIsTakenForOne(Connected):
    """A release that was not answered is taken for done, as it always works."""

    async def release_run_lease(self, **arguments: Any) -> Any:
        try:
            await self.sent("release_run_lease", arguments)
        except StoreUnavailableError:
            return


@broken("ERROR-2", "Whoever gets no answer")
class LostAnswersAreSentAgain(Connected):
    """A wish that was not answered is sent again under another id."""

    async def deliver_retry(self, **arguments: Any) -> Any:
        try:
            return await self.sent("deliver_retry", arguments)
        except StoreUnavailableError:
            return await self.sent("deliver_retry", arguments | {"retry_id": f"{arguments['retry_id']} again"})


@broken("ERROR-2", "ends soon with `CancelledError`")
class DisconnectionHidesTheCancellation(Connected):
    """A caller that goes away while a statement is sent gets an error of the connection."""

    async def heartbeat_run_lease(self, **arguments: Any) -> Any:
        try:
            return await self.sent("heartbeat_run_lease", arguments)
        except BaseException as error:
            raise StoreUnavailableError("the connection broke") from error
