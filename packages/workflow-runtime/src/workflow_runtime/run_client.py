"""The calls of a program about its runs: start them, deliver to them, end them, try them again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar, overload

from .bulk import RunsInBulk
from .clock import Clock, StoreClock, to_ms
from .ends import Ends
from .engine.definition import Registry, Workflow, checked_workflow
from .engine.history import EventKind, run_event
from .errors import ResultTimeoutError, RunConflictError, RunNotFoundError, StoreError
from .handles import RunHandle
from .ids import check_id, new_id, plain_text
from .isolation import outside_handlers
from .logs import get_logger, one_line
from .many import ManyRuns
from .payloads import ExactCodec, JsonText, encode_json
from .store import (
    DEFAULT_QUEUE,
    CancelRequested,
    CancelResult,
    ClaimedRun,
    Created,
    DeliverApprovalResult,
    DeliverRetryResult,
    DeliverSignalResult,
    Duplicate,
    Existing,
    ForkResult,
    RequeueResult,
    RetryResult,
    RunStatus,
    RunSummary,
    TerminateResult,
    WorkflowVersion,
    about,
)
from .tables import Tables

__all__ = ["RunClient"]

logger = get_logger("workflow_runtime")

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")


@outside_handlers
class RunClient(ManyRuns, RunsInBulk):
    """The part of a runtime that speaks to runs. It drives none of them: a web process needs nothing more.

    Args:
        tables: Those of the store where runs live.
        registry: The workflows that are known here.
        codec: Carries inputs and payloads.
        clock: Instead of the store's time.
        queues: Those that this process serves; all when absent.
    """

    def __init__(
        self,
        *,
        tables: Tables,
        registry: Registry,
        codec: ExactCodec,
        clock: Clock | None,
        queues: Sequence[str] | None,
    ) -> None:
        self._tables = tables
        self._store = tables.guarded()
        self._registry = registry
        self._codec = codec
        self._clock = clock
        self._ends = Ends()
        self._queues: tuple[str, ...] | None = None if queues is None else tuple(queues)

    @overload
    async def start_run(
        self,
        workflow: Workflow[None, OutputT],
        input: None = None,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        start_at: datetime | None = None,
    ) -> RunHandle[OutputT]: ...
    @overload
    async def start_run(
        self,
        workflow: Workflow[InputT, OutputT],
        input: InputT,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        start_at: datetime | None = None,
    ) -> RunHandle[OutputT]: ...
    @overload
    async def start_run(
        self,
        workflow: str,
        input: Any = None,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        start_at: datetime | None = None,
    ) -> RunHandle[Any]: ...
    async def start_run(
        self,
        workflow: Workflow[Any, Any] | str,
        input: Any = None,
        *,
        run_id: str | None = None,
        queue: str = DEFAULT_QUEUE,
        priority: int = 0,
        start_at: datetime | None = None,
    ) -> RunHandle[Any]:
        """Create a run; some worker will drive it. Returns once it is durable.

        Args:
            workflow: Which workflow, or its id. New runs start on its current version.
            input: What the handler gets; any value that the codec carries.
            run_id: Chosen by the caller, so that starting is idempotent; random when absent.
            queue: Which queue it waits in.
            priority: Greater is sooner; from -32768 to 32767.
            start_at: Not before this moment (an aware datetime).

        Raises:
            UnknownWorkflowError: This runtime does not know the workflow.
            InvalidPayloadError: The input cannot be carried; names the path.
            RunConflictError: The run id exists with another workflow or input.
        """
        answer, _ = await self._create(workflow, input, run_id, queue, priority, start_at)
        self._wake_workers("pending")
        return self._handle(answer.run.run_id, created=isinstance(answer, Created))

    @overload
    def attach(self, run_id: str) -> RunHandle[Any]: ...
    @overload
    def attach(self, run_id: str, workflow: Workflow[Any, OutputT]) -> RunHandle[OutputT]: ...
    def attach(self, run_id: str, workflow: Workflow[Any, Any] | None = None) -> RunHandle[Any]:
        """Refer to a run that was started elsewhere or earlier.

        Args:
            run_id: Which run.
            workflow: What it is a run of, so that a type checker knows the type of its result. A run of another
                workflow raises `RunConflictError` when it is read.
        """
        return self._handle(
            check_id("run_id", run_id),
            created=False,
            workflow_id=None if workflow is None else checked_workflow("attach()", workflow).id,
        )

    async def deliver_signal(
        self,
        run_id: str,
        name: str,
        payload: Any = None,
        *,
        signal_id: str | None = None,
        only_if_waiting: bool = False,
    ) -> DeliverSignalResult:
        """Send a signal to a run. When the answer is `delivered` or `buffered`, it is durable.

        Args:
            run_id: To which run.
            name: What its handler waits for with `ctx.wait_for_event(name)`.
            payload: Any value that the codec carries.
            signal_id: Deduplicates: a signal acts once per run, however often it is sent. Random when absent.
            only_if_waiting: Answer `not-waiting`, and do nothing, unless the run is paused waiting for this name.
        """
        answer = await self._store.deliver_signal(
            run_id=check_id("run_id", run_id),
            signal_id=new_id() if signal_id is None else check_id("signal_id", signal_id),
            name=check_id("name", name),
            payload=self._codec.encode(payload, "payload"),
            now_ms=await self._now_ms(),
            only_if_waiting=only_if_waiting,
        )
        self._delivered(run_id)
        return about(answer, run_id=run_id)

    async def deliver_approval(
        self,
        run_id: str,
        approval_id: str,
        *,
        approved: bool,
        decided_by: str | None = None,
        comment: str | None = None,
        only_if_waiting: bool = False,
    ) -> DeliverApprovalResult:
        """Decide an approval of a run. The first decision stands; a later one answers `already-decided`.

        Args:
            run_id: Of which run.
            approval_id: What its handler waits for with `ctx.approve(approval_id)`.
            approved: Yes or no.
            decided_by: Who decided.
            comment: Why.
            only_if_waiting: Answer `not-waiting`, and do nothing, unless the run is paused waiting for it.
        """
        answer = await self._store.deliver_approval(
            run_id=check_id("run_id", run_id),
            approval_id=check_id("approval_id", approval_id),
            approved=approved,
            decided_by=None if decided_by is None else plain_text("decided_by", decided_by),
            comment=None if comment is None else plain_text("comment", comment),
            now_ms=await self._now_ms(),
            only_if_waiting=only_if_waiting,
        )
        self._delivered(run_id)
        return about(answer, run_id=run_id, asked=approved)

    async def cancel_run(
        self, run_id: str, *, reason: str | None = None, wait: timedelta | None = None
    ) -> CancelResult:
        """Ask a run to end: its handler gets `asyncio.CancelledError` at its next durable operation.

        It may clean up with further durable operations. A step that is running is cancelled. A worker has to drive the
        run to its end: a `requested` answer's `unserved` says, and the log too, when none of this runtime could, and
        `status` says where the run stood.

        Args:
            run_id: Which run.
            reason: Recorded with the run; for people.
            wait: Return when the run has ended, or after this real time with where it stands then. A request that was
                made before is waited for too, and answered as `requested`.
        """
        answer = await self._store.cancel_run(
            run_id=check_id("run_id", run_id),
            reason=None if reason is None else plain_text("reason", reason),
            now_ms=await self._now_ms(),
        )
        self._delivered(run_id)
        if isinstance(answer, CancelRequested) or (isinstance(answer, Duplicate) and wait is not None):
            requested = CancelRequested(inbox_seq=answer.inbox_seq)
            return about(await self._told_of_end(run_id, requested, wait), run_id=run_id, wanted=RunStatus.ABORTED)
        return about(answer, run_id=run_id, wanted=RunStatus.ABORTED)

    async def _told_of_end(self, run_id: str, answer: CancelRequested, wait: timedelta | None) -> CancelRequested:
        """Add to the answer where the run stands. The request itself is durable, whatever can be read of the run."""
        try:
            if wait is not None:
                with suppress(ResultTimeoutError):
                    await self._handle(run_id, created=False).ended(timeout=wait)
            run = await self._store.load_run(run_id=run_id)
        except (StoreError, RunNotFoundError) as error:
            logger.warning("run %r: asked to end, but it cannot be read: %s", run_id, one_line(error))
            return answer
        if run is None:
            return answer
        unserved = self._unserved(run)
        if unserved is not None:
            logger.warning("run %r was asked to end and waits for a worker: %s", run_id, one_line(unserved))
        return replace(answer, status=run.status, unserved=unserved)

    def _unserved(self, run: RunSummary) -> str | None:
        """Return why no worker of this runtime takes a run that waits for one; `None` if one does."""
        if run.status not in {RunStatus.QUEUED, RunStatus.PAUSED}:
            return None
        version = WorkflowVersion(workflow_id=run.workflow_id, version=run.workflow_version)
        if version not in self._registry.versions():
            return f"this runtime does not know workflow {run.workflow_id!r} version {run.workflow_version!r}"
        if self._queues is not None and run.queue not in self._queues:
            return f"this runtime does not serve queue {run.queue!r}"
        return None

    async def terminate_run(self, run_id: str, *, reason: str | None = None) -> TerminateResult:
        """End a run at once: its handler gets no chance to clean up, and its worker can write nothing any more.

        Args:
            run_id: Which run.
            reason: Recorded with the run; for people.
        """
        answer = await self._store.terminate_run(
            run_id=check_id("run_id", run_id),
            reason=None if reason is None else plain_text("reason", reason),
            now_ms=await self._now_ms(),
        )
        self._wake_workers("ticks")  # one may have waited for this end
        self._ends.note(run_id)
        return about(answer, run_id=run_id, wanted=RunStatus.ABORTED)

    async def requeue_run(self, run_id: str) -> RequeueResult:
        """Requeue a run that is `dead`, when what crashed its workers is mended."""
        answer = await self._store.requeue_run(run_id=check_id("run_id", run_id), now_ms=await self._now_ms())
        self._wake_workers("pending")
        return about(answer, run_id=run_id)

    async def retry_run(self, run_id: str, *, reason: str | None = None, even_aborted: bool = False) -> RetryResult:
        """Requeue a run that ended wrongly, when what was wrong is mended; it goes on from its log.

        What was recorded stays recorded. What had failed and made the handler give up (a step that used up its
        attempts, a wait that timed out) is tried anew, with all attempts and the whole timeout. A failure that the
        handler has answered with anything durable stays as it is: the handler then ends as it did before, unless its
        code was changed.

        Args:
            run_id: Which run; one that is `errored` or `dead`. It stays on its version: mend the handler of that one.
            reason: Recorded with the run; for people.
            even_aborted: Also one that was cancelled or terminated. It is no longer asked to end.
        """
        statuses = (RunStatus.ERRORED, RunStatus.DEAD, *((RunStatus.ABORTED,) if even_aborted else ()))
        event = run_event(EventKind.RUN_RETRIED, encode_json({"reason": reason}))
        answer = await self._store.retry_run(run_id=run_id, event=event, now_ms=await self._now_ms(), statuses=statuses)
        self._wake_workers("pending")
        return about(answer, run_id=run_id)

    async def fork_run(
        self, run_id: str, from_index: int, new_run_id: str | None = None, *, version: str | None = None
    ) -> ForkResult:
        """Create a run that goes on from the first part of another run's log; the other one stays as it is.

        What was recorded in that part is not done again. What comes after it in the other log is: whether the world
        outside can bear that is for the caller to know, since `ctx.run_id` and the idempotency keys of steps are the
        new run's own. A wait in that part that has not ended goes on, with its deadline. Signals that the part has
        taken are history; those that it has not stay with the other run. A part that holds a request to end makes the
        new run end as well: choose a shorter one. The whole log of a run that ended wrongly goes on as by `retry_run`.

        Args:
            run_id: The run whose log it is; it may be running.
            from_index: How many events are taken over; `read_events` of the store, or a timeline, shows them.
            new_run_id: Chosen by the caller, so that forking is idempotent; random when absent.
            version: The workflow's version for the new run; by default that of the other one.

        Returns:
            `forked`, or `existing` with what differs, or `not-forkable` when the log is shorter, or `not-found`.
        """
        run_id = check_id("run_id", run_id)
        answer = await self._store.fork_run(
            run_id=run_id,
            new_run_id=check_id("new_run_id", new_run_id) if new_run_id is not None else new_id(),
            from_index=from_index,
            event=run_event(EventKind.RUN_FORKED, encode_json({"run_id": run_id, "from_index": from_index})),
            operation_id=new_id(),
            now_ms=await self._now_ms(),
            workflow_version=version,
        )
        self._wake_workers("pending")
        return about(answer, run_id=run_id)

    async def retry_now(self, run_id: str, *, retry_id: str | None = None) -> DeliverRetryResult:
        """End the backoff of a run's steps now, as when what they call is back.

        Nothing else of the run is hurried: it sleeps, and waits for signals and approvals, as long as before. For a
        run that has ended there is `retry_run`.

        Args:
            run_id: Which run.
            retry_id: Deduplicates the wish; random when absent.
        """
        answer = await self._store.deliver_retry(
            run_id=run_id, retry_id=retry_id if retry_id is not None else new_id(), now_ms=await self._now_ms()
        )
        self._delivered(run_id)
        return answer

    # Within.

    async def _create(
        self,
        wanted: Workflow[Any, Any] | str,
        input: Any,
        run_id: str | None,
        queue: str,
        priority: int,
        start_at: datetime | None,
        *,
        owner: str | None = None,
        lease_ms: int | None = None,
    ) -> tuple[Created | Existing, ClaimedRun | None]:
        """Create a run, and claim it for an owner if one is given."""
        workflow = self._registry.current(wanted)
        text = self._codec.encode(input, "input")
        available_at_ms = None if start_at is None else to_ms("start_at", start_at)
        answer = await self._store.create_run(
            run_id=new_id() if run_id is None else check_id("run_id", run_id),
            workflow_id=workflow.id,
            workflow_version=workflow.version,
            input=text,
            operation_id=new_id(),
            now_ms=await self._now_ms(),
            queue=check_id("queue", queue),
            priority=priority,
            available_at_ms=available_at_ms,
            owner=owner,
            lease_ms=lease_ms,
        )
        if isinstance(answer, Existing):
            if answer.differs:
                raise RunConflictError(answer.run.run_id, answer.differs)
            return answer, None
        return answer, answer.claim

    def _handle(
        self, run_id: str, *, created: bool, workflow_id: str | None = None, output: JsonText | None = None
    ) -> RunHandle[Any]:
        return RunHandle(
            run_id,
            store=self._store,
            codec=self._codec,
            created=created,
            workflow_id=workflow_id,
            unserved=self._unserved,
            ends=self._ends,
            output=output,
        )

    async def _ready_clock(self) -> Clock:
        if self._clock is None:
            await self._tables.made()  # or the reading would be older than half a round trip
            before = time.monotonic()
            store_clock_ms = await self._store.read_clock()
            # The answer is half a round trip old. Of several first calls at once the first one's reading stays: two
            # clocks that differ would let time run backwards.
            reading = StoreClock(store_clock_ms + round((time.monotonic() - before) * 500))
            if self._clock is None:
                self._clock = reading
        return self._clock

    async def _now_ms(self) -> int:
        return (await self._ready_clock()).now_ms()
