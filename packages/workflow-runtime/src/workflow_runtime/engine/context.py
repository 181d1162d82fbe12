"""The durable operations, as a handler sees them."""

from __future__ import annotations

import contextvars
import random
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Concatenate, ParamSpec, TypeVar, cast, overload

from ..clock import from_ms, to_ms
from ..errors import ConfigurationError, InvalidArgumentError, InvalidPayloadError, PayloadTooLargeError
from ..frozen_value import Value, value
from ..ids import check_id
from ..misuse import check_function, is_async
from ..payloads import ExactCodec, JsonText, decode_json, encode_json
from ..retry import RetryPolicy
from ..store import WorkflowExecutionStore
from .call_arguments import checkable_class, checked_retry, deadline, duration_ms, name_of_step, timeout_s
from .definition import Workflow
from .history import OperationKind
from .leftovers import durable
from .machine import Machine
from .operations import StepCall
from .step_ids import derived_id

__all__ = ["Approval", "Context", "Steps", "TransactionalSteps"]

P = ParamSpec("P")
T = TypeVar("T")

_START_IT = "start it within a step, with await runtime.start_run(...)"
_ENVELOPE_BYTES = 4_096
"""Room for the small object that an emitted value travels in."""


@value
class Approval(Value):
    """A person's decision."""

    approved: bool
    decided_by: str | None
    comment: str | None


class Context:
    """The durable operations of one run. A handler gets it as its first argument.

    Whatever a handler does through it is recorded, and found again in a replay by its step id: the explicit `id`,
    or a name with a counter (`charge`, `charge#2`, …) in the order of the calls. That order is the same in every
    replay, also under `gather` and `TaskGroup`, and in the sets that `asyncio.wait` gives. One function of asyncio
    is different: `asyncio.as_completed` starts bare coroutines in any order, so give it tasks.
    """

    def __init__(
        self,
        *,
        machine: Machine,
        run_id: str,
        codec: ExactCodec,
        retry: RetryPolicy,
        max_payload_bytes: int,
        now_ms: Callable[[], int],
        store: WorkflowExecutionStore,
        schedule_id: str | None = None,
        scheduled_at: datetime | None = None,
    ) -> None:
        self.run_id = run_id
        """The id of this run."""
        self.schedule_id = schedule_id
        """The schedule whose tick started this run; `None` for other runs."""
        self.scheduled_at = scheduled_at
        """The moment that this tick stands for, in UTC, however late the run begins; `None` for other runs.

        It is that of the run's record: the same in every replay, after a retry, and in a fork.
        """
        self._machine = machine
        self._calls = machine.calls
        self._codec = codec
        self._retry = retry
        self._max_payload_bytes = max_payload_bytes
        self._now_ms = now_ms
        self._store = store
        self._steps = Steps(self)

    @property
    def step(self) -> Steps:
        """Run a function once and record its result: `await ctx.step(charge, order_id)`.

        See `Steps` for options.
        """
        return self._steps

    @property
    def transaction(self) -> TransactionalSteps:
        """Run a function once, in one database transaction with its record: `await ctx.transaction("pay", pay, 42)`.

        See `TransactionalSteps`.
        """
        return TransactionalSteps(self)

    @durable
    async def sleep(self, duration: timedelta, *, id: str | None = None) -> None:
        """Sleep durably; the run needs no worker meanwhile.

        Args:
            duration: How long, from now on. Nothing or less is over at once.
            id: The step id; `sleep`, `sleep#2`, … when absent.
        """
        sleep_ms = duration_ms("duration", duration)
        await self._await(OperationKind.SLEEP, id, "sleep", until=lambda now_ms: now_ms + sleep_ms)

    @durable
    async def sleep_until(self, moment: datetime, *, id: str | None = None) -> None:
        """Sleep durably until a moment; one that has passed is over at once.

        Args:
            moment: An aware datetime.
            id: The step id; `sleep`, `sleep#2`, … when absent.
        """
        at_ms = max(0, to_ms("moment", moment))
        await self._await(OperationKind.SLEEP, id, "sleep", until=lambda now_ms: at_ms)

    @overload
    async def wait_for_event(
        self,
        name: str,
        *,
        type: type[T],
        timeout: timedelta | None = None,  # noqa: ASYNC109
        id: str | None = None,
    ) -> T: ...
    @overload
    async def wait_for_event(
        self,
        name: str,
        *,
        timeout: timedelta | None = None,  # noqa: ASYNC109
        id: str | None = None,
    ) -> Any: ...
    @durable
    async def wait_for_event(
        self,
        name: str,
        *,
        type: Any = None,
        timeout: timedelta | None = None,  # noqa: ASYNC109  # a durable one
        id: str | None = None,
    ) -> Any:
        """Wait for a signal from outside and return its payload.

        Signals that came before are kept: the oldest one of this name that nobody has taken is taken.

        Args:
            name: The signal's name, as `WorkflowRuntime.deliver_signal` gives it.
            type: What the payload must be, as the codec gives it (`dict`, `list[str]`, a `TypedDict`, a class): for
                type checkers, and checked as far as `isinstance` goes.
            timeout: Give up after this time; `None` waits for ever.
            id: The step id; `wait:NAME`, `wait:NAME#2`, … when absent.

        Raises:
            WaitTimeoutError: Nothing came in time. A signal that comes later stays in the inbox.
            InvalidPayloadError: A signal came, and its payload is not of this type. It is taken all the same.
        """
        name = check_id("name", name)
        expected = None if type is None else checkable_class(type)
        text = await self._await(OperationKind.WAIT, id, f"wait:{name}", name=name, until=deadline("timeout", timeout))
        payload = None if text is None else self._codec.decode(text)
        if expected is not None and not isinstance(payload, expected):
            problem = f"is {payload.__class__.__name__}, not {expected.__name__}"
            raise InvalidPayloadError(f"payload of signal {name!r}", "$", problem)
        return payload

    @durable
    async def approve(self, approval_id: str, *, timeout: timedelta | None = None) -> Approval:  # noqa: ASYNC109  # a durable one
        """Wait for a person's decision.

        Args:
            approval_id: Which decision, once per run; `WorkflowRuntime.deliver_approval` names it.
            timeout: Give up after this time; `None` waits for ever.

        Raises:
            WaitTimeoutError: Nobody decided in time.
        """
        approval_id = check_id("approval_id", approval_id)
        text = await self._await(
            OperationKind.APPROVAL,
            derived_id(f"approval:{approval_id}"),
            "",
            name=approval_id,
            until=deadline("timeout", timeout),
        )
        return Approval(**decode_json(text))

    @durable
    async def now(self) -> datetime:
        """Return the time of the first execution, in UTC, also in a replay."""
        return from_ms(decode_json(await self._record("now", self._now_ms)))

    @durable
    async def uuid(self) -> uuid.UUID:
        """Return a random UUID, the same in a replay."""
        return uuid.UUID(decode_json(await self._record("uuid", lambda: str(uuid.uuid4()))))

    @durable
    async def random(self) -> float:
        """Return a random number from 0 to 1 (exclusive), the same in a replay. Not for secrets."""
        return float(decode_json(await self._record("random", random.random)))

    @durable
    async def emit(self, name: str, payload: Any = None) -> None:
        """Write an event into the run's log, for those who read or follow it.

        Args:
            name: What it is about.
            payload: Any value that the codec can carry.
        """
        name = check_id("name", name)
        await self._await(OperationKind.EMIT, None, f"emit:{name}", name=name, value=self._encode(payload))

    async def _record(self, name: str, make: Callable[[], Any]) -> JsonText:
        # A replay discards the fresh value: the event holds the first one.
        return cast("JsonText", await self._await(OperationKind.VALUE, None, name, value=encode_json(make())))

    async def _await(
        self,
        kind: OperationKind,
        id: str | None,
        default: str,
        *,
        name: str = "",
        value: JsonText | None = None,
        step: StepCall | None = None,
        until: Callable[[int], int] | None = None,
    ) -> Any:
        return await self._machine.request(kind, id, default, name=name, value=value, step=step, until=until)

    async def _step(self, call: StepCall, id: str | None) -> Any:
        request = self._machine.request
        return self._codec.decode(await request(OperationKind.STEP, id, name_of_step(call.function), step=call))

    def _encode(self, payload: Any) -> JsonText:
        text = self._codec.encode(payload, "payload")
        if len(text) > self._max_payload_bytes - _ENVELOPE_BYTES:
            raise PayloadTooLargeError("payload", len(text), self._max_payload_bytes - _ENVELOPE_BYTES)
        return text


class Steps:
    """Calls of functions whose results are recorded.

    `await ctx.step(fn, *args, **kwargs)` runs an `async def` on the application's event loop and a plain function
    on a thread. What it returns is written to the log as JSON and given back decoded, the first time as in a
    replay. An error is retried as the policy says; when the attempts are used up `StepFailedError` is raised.

    A step runs at least once: a worker that dies before the record is written runs it again. Inside it,
    `step_info()` gives the attempt's number and an idempotency key to hand on to the outside world.
    """

    def __init__(
        self,
        context: Context,
        id: str | None = None,
        retry: RetryPolicy | None = None,
        timeout: timedelta | None = None,
    ) -> None:
        self._context = context
        self._calls = context._calls  # noqa: SLF001  # one module, one thing
        self._id = id
        self._retry = retry
        self._timeout = timeout

    def options(
        self, *, id: str | None = None, retry: RetryPolicy | None = None, timeout: timedelta | None = None
    ) -> Steps:
        """Set options for a call: `await ctx.step.options(id="charge", timeout=...)(charge, order_id)`.

        Args:
            id: The step id; the function's name with a counter when absent. Must be new in this run.
            retry: Instead of the workflow's policy.
            timeout: For one attempt, in real time. A plain function cannot be interrupted: its thread goes on
                while the step is retried or fails.
        """
        return Steps(self._context, id, checked_retry(retry), timeout)

    @overload
    async def __call__(self, fn: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @overload
    async def __call__(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    @durable
    async def __call__(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Run the function, or return its record.

        Raises:
            InvalidArgumentError: `fn` is not callable, or the explicit id was used before; before anything runs.
            StepFailedError: The attempts are used up, or the error is not one to retry.
        """
        if isinstance(fn, Workflow):
            raise InvalidArgumentError("fn", f"is the workflow {fn.id!r} and no function: {_START_IT}")
        check_function(fn)
        call = StepCall(
            function=fn,
            args=args,
            kwargs=kwargs,
            retry=self._retry or self._context._retry,  # noqa: SLF001  # one module, one thing
            timeout_s=timeout_s(self._timeout),
            context=contextvars.copy_context(),
        )
        return await self._context._step(call, self._id)  # noqa: SLF001


class TransactionalSteps:
    """Calls of functions that write business data in one database transaction with their own record.

    `await ctx.transaction("charge", charge, order_id)` calls `charge(tx, order_id)`, an `async def`, where `tx` is what
    the store has for it: on Postgres the `asyncpg.Connection`, on SQLite and D1 a collector of statements. Either
    everything that was written through `tx` and the record of the result are committed, or nothing: exactly once,
    whatever crashes. A function that raises has written nothing, and is tried again as the policy says.

    What does not go through `tx` is not part of that: the function runs again after a crash, a conflict or an error.
    While it runs, nothing else of this run is recorded, so keep it short.
    """

    def __init__(self, context: Context, retry: RetryPolicy | None = None, timeout: timedelta | None = None) -> None:
        self._context = context
        self._calls = context._calls  # noqa: SLF001  # one module, one thing
        self._retry = retry
        self._timeout = timeout

    def options(self, *, retry: RetryPolicy | None = None, timeout: timedelta | None = None) -> TransactionalSteps:
        """Set options for a call: `await ctx.transaction.options(retry=NO_RETRY)("charge", charge, order_id)`.

        Args:
            retry: Instead of the workflow's policy.
            timeout: For one run of the function, in real time; the commit is not counted.
        """
        return TransactionalSteps(self._context, checked_retry(retry), timeout)

    @durable
    async def __call__(
        self, id: str, fn: Callable[Concatenate[Any, P], Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Run the function, or return its record.

        Raises:
            ConfigurationError: The store has no transactions; before anything runs.
            InvalidArgumentError: `fn` is not an `async def`, or the id was used before; before anything runs.
            StepFailedError: The attempts are used up, or the error is not one to retry.
        """
        self._check(id, fn)
        call = StepCall(
            function=fn,
            args=args,
            kwargs=kwargs,
            retry=self._retry or self._context._retry,  # noqa: SLF001  # one module, one thing
            timeout_s=timeout_s(self._timeout),
            context=contextvars.copy_context(),
            transactional=True,
        )
        return cast("T", await self._context._step(call, id))  # noqa: SLF001

    def _check(self, id: str, fn: Callable[..., Any]) -> None:
        check_id("id", id)
        check_function(fn)
        if not (is_async(fn) or is_async(getattr(fn, "__call__", None))):  # noqa: B004  # not whether it can be called, but what then
            raise InvalidArgumentError("fn", f"must be an `async def` that takes the transaction first, not {fn!r}")
        store = self._context._store  # noqa: SLF001
        if not store.capabilities.transactions:
            raise ConfigurationError(
                f"{type(store).__name__} has no transactions. The stores for Postgres, SQLite and D1 have them; on "
                "this one use ctx.step, and step_info().idempotency_key where the outside must act once"
            )
