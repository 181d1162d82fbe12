"""Attempts of steps, on the application's own event loop."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from ..errors import PayloadTooLargeError, StepTimeoutError
from ..escapes import EscapedError, is_interrupt, text_of, traceback_of
from ..misuse import asyncio_advice, call_misfits, is_async
from ..payloads import ExactCodec, JsonText
from ..store import RunRecord
from .operations import Operation, StepCall
from .step_info import StepAttempt, current_attempt
from .step_transactions import StepTransactions

__all__ = ["OnThread", "StepAttempts", "did_not_fit"]

OnThread: TypeAlias = Callable[[StepAttempt, Callable[[], Any]], Awaitable[Any]]
"""Calls a plain function where it does not block the event loop."""


class StepAttempts:
    """The attempts of one run's steps. A drive's step tasks make them, one at a time for each step.

    Args:
        run: Whose steps.
        codec: Writes the results down.
        max_payload_bytes: What the store carries.
        transactions: Runs the attempts of transactional steps.
    """

    def __init__(
        self, *, run: RunRecord, codec: ExactCodec, max_payload_bytes: int, transactions: StepTransactions
    ) -> None:
        self._record = run
        self._codec = codec
        self._max_payload_bytes = max_payload_bytes
        self._transactions = transactions

    def make(self, operation: Operation, number: int, on_thread: OnThread) -> Awaitable[JsonText | None]:
        """Return what runs one attempt, and gives its result: `None` when there is nothing left to record."""
        assert operation.step is not None
        call = operation.step
        attempt = StepAttempt(self._record.run_id, self._record.created_at_ms, operation.step_id, number)
        if not call.transactional:
            return self._run(call, attempt, on_thread)
        run = partial(self._run, attempt=attempt, on_thread=on_thread)
        return self._transactions.run(operation, lambda tx: run(replace(call, args=(tx, *call.args))))

    async def _run(self, call: StepCall, attempt: StepAttempt, on_thread: OnThread) -> JsonText:
        """Run a step's body once and write its result down.

        Raises:
            StepTimeoutError: The attempt took longer than the step's timeout.
            InvalidPayloadError: The result cannot be carried as JSON.
            PayloadTooLargeError: The result is larger than the store carries.
            Exception: Whatever the body or the codec raises.
            EscapedError: The body or the codec raised something that is no `Exception`.
        """
        current_attempt.set(attempt)
        what = f"result of step {attempt.step_id!r}"
        try:
            call_it = _call if call.timeout_s is None else _call_in_time
            text = self._codec.encode(await call_it(call, attempt, on_thread), what)
        except (Exception, asyncio.CancelledError):
            raise
        except BaseException as error:
            if is_interrupt(error):
                raise
            raise EscapedError(error) from error
        if len(text) > self._max_payload_bytes:
            raise PayloadTooLargeError(what, len(text), self._max_payload_bytes)
        return text


async def _call_in_time(call: StepCall, attempt: StepAttempt, on_thread: OnThread) -> Any:
    scope = asyncio.timeout(call.timeout_s)
    try:
        async with scope:
            return await _call(call, attempt, on_thread)
    except TimeoutError:
        if scope.expired():
            raise StepTimeoutError(attempt.step_id, call.timeout_s or 0) from None
        raise


async def _call(call: StepCall, attempt: StepAttempt, on_thread: OnThread) -> Any:
    if is_async(call.function):
        return await call.function(*call.args, **call.kwargs)
    result, error = await on_thread(attempt, partial(_call_on_thread, call.function, call.args, call.kwargs))
    if error is not None:
        raise asyncio_advice(call.function, error, text_of(error)) or error
    # A lambda or a functools.partial around an `async def` only makes the coroutine.
    return await result if inspect.isawaitable(result) else result


def _call_on_thread(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Exception | None]:
    """Call a plain function. Return its result, or what it raises in a form that crosses threads."""
    try:
        return function(*args, **kwargs), None
    except StopIteration as error:  # a future cannot hold StopIteration: the await would never return
        return None, EscapedError(error)
    except Exception as error:  # noqa: BLE001  # raised again in the step's task
        return None, error
    except BaseException as error:  # noqa: BLE001  # there is no Ctrl-C on this thread
        return None, EscapedError(error)


def did_not_fit(call: StepCall, error: BaseException) -> bool:
    """Return whether an attempt failed because the function takes other arguments: every other attempt would, too."""
    if not issubclass(type(error), TypeError):
        return False
    innermost = traceback_of(error)
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    # Raised by the call itself, not inside the function.
    if innermost is None or innermost.tb_frame.f_code not in _CALLERS:
        return False
    args = (None, *call.args) if call.transactional else call.args
    return call_misfits(call.function, args, call.kwargs)


_CALLERS = (_call.__code__, _call_on_thread.__code__)
