"""The last write of a run."""

from __future__ import annotations

from typing import Any

from ..errors import CorruptRecordError, LogConflictError, NonDeterminismError, PayloadTooLargeError
from ..escapes import exc_info_of, is_interrupt
from ..failures import failure_of, write_failure
from ..logs import get_logger, one_line
from ..payloads import ExactCodec, JsonText, encode_json
from .drive_outcome import DriveOutcome
from .handler_outcome import Aborted, Errored, Finished
from .history import EventKind, run_event
from .log_draft import LogDraft
from .log_write import LogWrite
from .machine import Machine
from .retried_log import end_facts
from .run_writer import RunWriter

__all__ = ["RunEnd"]

logger = get_logger("workflow_runtime")

_MAX_REASON = 1_000
"""The most characters of a reason; the error has the rest."""


class RunEnd:
    """The end of a run: finished, errored, aborted or parked. Each method makes the last write of the drive.

    Args:
        workflow_id: What the run is a run of, for the log.
        machine: Knows how the handler has ended.
        codec: Encodes the output.
        max_payload_bytes: What the store carries.
        writer: Writes the end.
        draft: Goes into the same write.
    """

    def __init__(
        self,
        *,
        workflow_id: str,
        machine: Machine,
        codec: ExactCodec,
        max_payload_bytes: int,
        writer: RunWriter,
        draft: LogDraft,
    ) -> None:
        self._workflow_id = workflow_id
        self._machine = machine
        self._codec = codec
        self._max_payload_bytes = max_payload_bytes
        self._writer = writer
        self._draft = draft
        self.output: JsonText | None = None
        """Recorded output of a run that has finished."""

    async def by_outcome(self) -> DriveOutcome:
        """End the run as its handler has ended."""
        match self._machine.outcome:
            case Finished(output):
                return await self._finish(output)
            case Errored(error):
                return await self.by_error(error)
            case Aborted() | None:
                return await self._abort()

    async def by_error(self, error: BaseException) -> DriveOutcome:
        """End the run with an error.

        Raises:
            KeyboardInterrupt: It is no error of the run.
        """
        if is_interrupt(error):
            raise error
        logger.error("run %r of %r errored", self._writer.run_id, self._workflow_id, exc_info=exc_info_of(error))
        failure = failure_of(error)
        event = run_event(EventKind.RUN_ERRORED, write_failure(failure, **self._retry_facts()))
        await self._writer.error(self._draft.last_write(event), error=write_failure(failure))
        return DriveOutcome.ERRORED

    async def park(self, error: NonDeterminismError | CorruptRecordError) -> DriveOutcome:
        """Leave the run to somebody who mends the code or the row: nothing that others have recorded is wrong."""
        logger.error("run %r of %r is parked as dead: %s", self._writer.run_id, self._workflow_id, one_line(error))
        names = ("step_id", "recorded", "called") if isinstance(error, NonDeterminismError) else ()
        payload = write_failure(failure_of(error), **{name: getattr(error, name) for name in names})
        write = LogWrite(events=(run_event(EventKind.RUN_PARKED, payload),))
        try:
            await self._writer.error(write, error=payload, parked=True, reason=one_line(error)[:_MAX_REASON])
        except LogConflictError:
            raise error from None  # the log is not even as long as its head says
        return DriveOutcome.DEAD

    async def _finish(self, output: Any) -> DriveOutcome:
        try:
            text = self._encoded(output)
        except BaseException as error:  # noqa: BLE001  # a codec is the user's code
            return await self.by_error(error)
        await self._writer.finish(self._draft.last_write(run_event(EventKind.RUN_FINISHED)), output=text)
        self.output = text
        return DriveOutcome.FINISHED

    async def _abort(self) -> DriveOutcome:
        reason = self._machine.cancel_reason
        facts = {"reason": reason}
        event = run_event(EventKind.RUN_ABORTED, encode_json(facts | self._retry_facts()))
        write = self._draft.last_write(event)
        await self._writer.error(write, error=encode_json(facts), aborted=True, reason=reason)
        return DriveOutcome.ABORTED

    def _encoded(self, output: Any) -> JsonText:
        text = self._codec.encode(output, "output")
        if len(text) > self._max_payload_bytes:
            raise PayloadTooLargeError("output", len(text), self._max_payload_bytes)
        return text

    def _retry_facts(self) -> dict[str, Any]:
        # A handler that returned has dealt with its failures, even if its result cannot be recorded.
        ledger = self._machine.ledger
        returned = isinstance(self._machine.outcome, Finished)
        return end_facts(() if returned else ledger.step_ids, cancelled=ledger.cancelled and not returned)
