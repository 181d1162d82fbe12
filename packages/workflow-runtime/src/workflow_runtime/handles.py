"""A started run, as its starter sees it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from .clock import from_ms
from .durations import check_duration
from .ends import Ends
from .errors import (
    CapabilityNotSupportedError,
    ResultTimeoutError,
    RunAbortedError,
    RunConflictError,
    RunFailedError,
    RunNotFoundError,
)
from .failure import Failure
from .failures import read_failure
from .isolation import outside_handlers, refuse_in_handler
from .payloads import ExactCodec, JsonText, decode_json
from .store import Event, RunRecord, RunStatus, SupportsSubscribe, WorkflowExecutionStore

__all__ = ["RunHandle"]

_FIRST_POLL_S = 0.005
_LAST_POLL_S = 0.5
_WAITS_UNTIL = {RunStatus.QUEUED: "a worker from", RunStatus.PAUSED: "its timer at"}


if TYPE_CHECKING:
    import typing_extensions  # every type checker knows it; at run time there is no default before Python 3.13

    OutputT_co = typing_extensions.TypeVar("OutputT_co", covariant=True, default=Any)
else:
    OutputT_co = TypeVar("OutputT_co", covariant=True)


@outside_handlers
class RunHandle(Generic[OutputT_co]):
    """A reference to one run, whose result is of the type `OutputT_co`.

    Made by `WorkflowRuntime.start_run` and `WorkflowRuntime.attach`.
    """

    def __init__(
        self,
        run_id: str,
        *,
        store: WorkflowExecutionStore,
        codec: ExactCodec,
        created: bool,
        workflow_id: str | None = None,
        unserved: Callable[[RunRecord], str | None] = lambda run: None,
        ends: Ends | None = None,
        output: JsonText | None = None,
    ) -> None:
        self.run_id = run_id
        """The id of the run."""
        self.created = created
        """True if this very call created it."""
        self._store = store
        self._codec = codec
        self._workflow_id = workflow_id
        self._unserved = unserved
        self._ends = ends or Ends()
        self._output = output

    def __repr__(self) -> str:
        return f"<RunHandle {self.run_id!r}>"

    async def load(self) -> RunRecord:
        """Read the run as it is now.

        Raises:
            RunNotFoundError: It was deleted or pruned, or never was.
            RunConflictError: It is a run of another workflow than the one given to `attach`.
        """
        run = await self._store.load_run(run_id=self.run_id)
        if run is None:
            raise RunNotFoundError(self.run_id)
        if self._workflow_id not in {None, run.workflow_id}:
            raise RunConflictError(self.run_id, ("workflow_id",))
        return run

    async def status(self) -> RunStatus:
        """Return the run's status."""
        return (await self.load()).status

    def events(self, from_index: int = 0) -> AsyncGenerator[Event, None]:
        """Follow the run: give its events from an index on, and new ones as they come, until it has ended.

        Nothing is lost when following breaks off (the program ends, `StoreUnavailableError`): begin again with the
        index after the last event's.

        Args:
            from_index: The first event to give.

        Raises:
            CapabilityNotSupportedError: The store cannot give events as they are appended.
            RunNotFoundError: From the iteration: the run was deleted, or never was.
        """
        refuse_in_handler("RunHandle.events()")
        if not self._store.capabilities.subscribe:
            raise CapabilityNotSupportedError("subscribe")
        return cast(SupportsSubscribe, self._store).subscribe_events(run_id=self.run_id, from_index=from_index)

    async def result(self, *, timeout: timedelta | None = None) -> OutputT_co:  # noqa: ASYNC109  # the usual word
        """Wait for the run to end and give its output. Some worker must be driving it.

        What `WorkflowRuntime.run_here` has driven to its output is known by then, and is not read from the store. A run
        that this runtime drives is looked at when it ends, any other one from time to time, at least every half second.

        Args:
            timeout: Give up after this real time; the run goes on. `None` waits for ever.

        Raises:
            RunFailedError: It ended as `errored`.
            RunAbortedError: It was cancelled or terminated, or is parked as `dead`; says why.
            RunNotFoundError: It was deleted, or never was.
            ResultTimeoutError: It has not ended in time; says where it stands. It is a `TimeoutError` too.
        """
        if self._output is not None:
            if timeout is not None:
                check_duration("timeout", timeout)
            return cast("OutputT_co", self._codec.decode(self._output))
        return self._outcome(await self.ended(timeout=timeout))

    async def ended(self, *, timeout: timedelta | None = None) -> RunRecord:  # noqa: ASYNC109  # as for `result`
        """Wait for the run to end, however that is, and give it.

        Args:
            timeout: As for `result`.

        Raises:
            RunNotFoundError: It was deleted, or never was.
            ResultTimeoutError: As for `result`.
        """
        run: RunRecord | None = None
        bound = asyncio.timeout(None if timeout is None else check_duration("timeout", timeout).total_seconds())
        try:
            async with bound:
                delay_s = _FIRST_POLL_S
                with self._ends.awaited(self.run_id) as end:
                    while True:
                        run = await self.load()
                        if run.status.is_terminal:
                            return run
                        await end.wait(delay_s)
                        delay_s = min(delay_s * 1.5, _LAST_POLL_S)
        except TimeoutError as error:
            if timeout is None or not bound.expired():
                raise
            raise self._late(timeout, run) from error

    def _late(self, timeout: timedelta, run: RunRecord | None) -> ResultTimeoutError:
        if run is None:
            return ResultTimeoutError(self.run_id, timeout.total_seconds(), None, None)
        waits_for = [f"{awaited.kind} {awaited.name!r}" for awaited in run.awaited]
        if run.due_at_ms is not None:
            waits_for.append(f"{_WAITS_UNTIL[run.status]} {from_ms(run.due_at_ms).isoformat(timespec='milliseconds')}")
        if (unserved := self._unserved(run)) is not None:
            waits_for.append(f"a worker that can drive it: {unserved}")
        return ResultTimeoutError(
            run_id=self.run_id,
            timeout_s=timeout.total_seconds(),
            status=str(run.status),
            since=from_ms(run.updated_at_ms),
            waits_for=tuple(waits_for),
            held_by=run.lease_owner,
        )

    def _outcome(self, run: RunRecord) -> OutputT_co:
        if run.status is RunStatus.FINISHED:
            return cast("OutputT_co", None if run.output is None else self._codec.decode(run.output))
        if run.status is RunStatus.ERRORED:
            failure = _failure(run)
            raise RunFailedError(run.run_id, failure.error_type, failure.message, failure)
        reason = run.reason
        if run.status is RunStatus.DEAD and reason is None:
            reason = f"{run.crashes} workers in a row crashed while driving it; requeue_run() gives it another chance"
        raise RunAbortedError(run.run_id, run.status, reason)


def _failure(run: RunRecord) -> Failure:
    facts = decode_json(run.error) if run.error is not None else {}
    return read_failure({"error_type": "Error", "message": "", **facts})
