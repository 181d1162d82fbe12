"""The role `SignalStore`: delivering into a run's inbox."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from workflow_runtime.store import (
    DEFAULT_HISTORY_BYTES,
    AlreadyDecided,
    AlreadyFinished,
    Buffered,
    DeliverApprovalResult,
    Delivered,
    DeliverRetryResult,
    DeliverSignalResult,
    Duplicate,
    InboxEntry,
    JsonText,
    NotFound,
    NotWaiting,
    RunStatus,
    SignalToDeliver,
    approval_payload,
    checked,
)

from . import codec
from .server import Reply, Server


class Inbox:
    """The methods by which the world outside reaches a run."""

    _server: Server

    @checked
    async def deliver_signal(
        self,
        *,
        run_id: str,
        signal_id: str,
        name: str,
        payload: JsonText | None,
        now_ms: int,
        only_if_waiting: bool = False,
    ) -> DeliverSignalResult:
        answer = await self._deliver(
            "signal", run_id, name, signal_id, payload, now_ms, only_if_waiting=only_if_waiting
        )
        return Duplicate(inbox_seq=int(answer)) if isinstance(answer, str) else answer

    @checked
    async def deliver_signals(
        self, *, signals: Sequence[SignalToDeliver], now_ms: int
    ) -> tuple[DeliverSignalResult, ...]:
        if not signals:
            return ()
        deliveries = [
            _delivery("signal", signal.run_id, signal.name, signal.signal_id, signal.payload, now_ms)
            for signal in signals
        ]
        replies = await self._server.call("deliver_many", deliveries=deliveries, now_ms=now_ms)
        answers = map(_delivered, replies)
        return tuple(Duplicate(inbox_seq=int(one)) if isinstance(one, str) else one for one in answers)

    @checked
    async def deliver_approval(
        self,
        *,
        run_id: str,
        approval_id: str,
        approved: bool,
        now_ms: int,
        decided_by: str | None = None,
        comment: str | None = None,
        only_if_waiting: bool = False,
    ) -> DeliverApprovalResult:
        payload = approval_payload(approved=approved, decided_by=decided_by, comment=comment)
        answer = await self._deliver(
            "approval",
            run_id,
            approval_id,
            approval_id,
            payload,
            now_ms,
            only_if_waiting=only_if_waiting,
            decision="yes" if approved else "no",
        )
        return AlreadyDecided(approved=answer == "yes") if isinstance(answer, str) else answer

    @checked
    async def deliver_retry(self, *, run_id: str, retry_id: str, now_ms: int) -> DeliverRetryResult:
        answer = await self._deliver("retry", run_id, "retry", retry_id, None, now_ms)
        assert not isinstance(answer, NotWaiting), "only `only_if_waiting` brings that"
        return Duplicate(inbox_seq=int(answer)) if isinstance(answer, str) else answer

    @checked
    async def read_inbox(
        self, *, run_id: str, limit: int, after_seq: int = 0, max_bytes: int = DEFAULT_HISTORY_BYTES
    ) -> tuple[InboxEntry, ...]:
        texts = await self._server.call(
            "read_inbox", run_id=run_id, limit=limit, after_seq=after_seq, max_bytes=max_bytes
        )
        return codec.read_entries(texts, run_id)

    async def _deliver(
        self,
        kind: str,
        run_id: str,
        name: str,
        delivery_id: str,
        payload: JsonText | None,
        now_ms: int,
        **special: Any,
    ) -> Delivered | Buffered | NotWaiting | AlreadyFinished | NotFound | str:
        """Put an entry into the inbox; for one that is known, return what is known of it."""
        delivery = _delivery(kind, run_id, name, delivery_id, payload, now_ms)
        return _delivered(await self._server.call("deliver", **delivery, now_ms=now_ms, **special))


def _delivery(
    kind: str, run_id: str, name: str, delivery_id: str, payload: JsonText | None, now_ms: int
) -> dict[str, Any]:
    entry = codec.encode_entry(kind, name, delivery_id, payload, now_ms)
    return {"kind": kind, "run_id": run_id, "name": name, "delivery_id": delivery_id, "entry": entry}


def _delivered(reply: Reply) -> Delivered | Buffered | NotWaiting | AlreadyFinished | NotFound | str:
    match reply:
        case ["delivered", seq]:
            return Delivered(inbox_seq=seq)
        case ["buffered", seq]:
            return Buffered(inbox_seq=seq)
        case ["known", str(known)]:
            return known
        case ["not-waiting", status]:
            return NotWaiting(status=RunStatus(status))
        case ["finished", status]:
            return AlreadyFinished(status=RunStatus(status))
    return NotFound()
