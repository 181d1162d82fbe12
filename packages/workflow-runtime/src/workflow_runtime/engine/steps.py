"""Running one attempt of a step, on the application's own event loop."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeAlias

from ..errors import ConfigurationError, PayloadTooLargeError, StepTimeoutError
from ..escapes import EscapedError, is_interrupt, text_of, traceback_of
from ..misuse import asyncio_advice, call_misfits, is_async
from ..payloads import ExactCodec, JsonText
from .operations import StepCall

__all__ = ["OnThread", "StepInfo", "did_not_fit", "run_attempt", "step_info"]

OnThread: TypeAlias = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Calls a plain function where it does not block the event loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepInfo:
    """What a step's body can know about itself."""

    run_id: str
    step_id: str
    attempt: int
    """From 1. After a crash the attempt in flight is made again under the same number."""
    idempotency_key: str
    """The same for every attempt of this step of this run: hand it to whatever must act once."""


_current: ContextVar[StepInfo] = ContextVar("workflow_runtime_step")


def step_info() -> StepInfo:
    """Tell the running step's body who it is.

    Raises:
        ConfigurationError: Not called inside a step.
    """
    info = _current.get(None)
    if info is None:
        raise ConfigurationError("step_info() can only be called inside a step")
    return info


def make_step_info(run_id: str, created_at_ms: int, step_id: str, attempt: int) -> StepInfo:
    """Describe an attempt."""
    # The time of creation tells a run from an earlier one of the same id that was deleted.
    identity = f"{len(run_id)}:{run_id}:{created_at_ms}:{step_id}"
    key = hashlib.sha256(identity.encode()).hexdigest()[:32]
    return StepInfo(run_id=run_id, step_id=step_id, attempt=attempt, idempotency_key=key)


async def run_attempt(
    call: StepCall, info: StepInfo, codec: ExactCodec, max_payload_bytes: int, on_thread: OnThread
) -> JsonText:
    """Run a step's body once and write its result down.

    Raises:
        StepTimeoutError: The attempt took longer than the step's timeout.
        InvalidPayloadError: The result cannot be carried as JSON.
        PayloadTooLargeError: The result is larger than the store carries.
        Exception: Whatever the body or the codec raises.
        EscapedError: The body or the codec raised something that is no `Exception`.
    """
    _current.set(info)
    try:
        text = codec.encode(await _result(call, info, on_thread), f"result of step {info.step_id!r}")
    except (Exception, asyncio.CancelledError):
        raise
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise EscapedError(error) from error
    if len(text) > max_payload_bytes:
        raise PayloadTooLargeError(f"result of step {info.step_id!r}", len(text), max_payload_bytes)
    return text


async def _result(call: StepCall, info: StepInfo, on_thread: OnThread) -> Any:
    scope = asyncio.timeout(call.timeout_s)
    try:
        async with scope:
            return await _call(call, on_thread)
    except TimeoutError:
        if scope.expired():
            raise StepTimeoutError(info.step_id, call.timeout_s or 0) from None
        raise


async def _call(call: StepCall, on_thread: OnThread) -> Any:
    if is_async(call.function):
        return await call.function(*call.args, **call.kwargs)
    result, error = await on_thread(partial(_call_on_thread, call.function, call.args, call.kwargs))
    if error is not None:
        raise asyncio_advice(call.function, error, text_of(error)) or error
    # A lambda or a functools.partial around an `async def` only makes the coroutine.
    return await result if inspect.isawaitable(result) else result


def _call_on_thread(
    function: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[Any, Exception | None]:
    """Call a plain function; give what it returns, or what it raises in a form that crosses threads."""
    try:
        return function(*args, **kwargs), None
    except StopIteration as error:  # no future carries it: whoever awaits the future would wait for ever
        return None, EscapedError(error)
    except Exception as error:  # noqa: BLE001  # raised again in the step's task
        return None, error
    except BaseException as error:  # noqa: BLE001  # there is no Ctrl-C on this thread
        return None, EscapedError(error)


def did_not_fit(call: StepCall, error: BaseException) -> bool:
    """Tell whether an attempt failed because the function takes other arguments: so would every other attempt."""
    if not issubclass(type(error), TypeError):
        return False
    innermost = traceback_of(error)
    while innermost is not None and innermost.tb_next is not None:
        innermost = innermost.tb_next
    # Raised by the call itself, not inside of the function.
    if innermost is None or innermost.tb_frame.f_code not in _CALLERS:
        return False
    args = (None, *call.args) if call.transactional else call.args
    return call_misfits(call.function, args, call.kwargs)


_CALLERS = (_call.__code__, _call_on_thread.__code__)
