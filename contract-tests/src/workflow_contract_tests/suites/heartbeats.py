"""HEARTBEAT: leases are renewed from another thread, also while the store's own event loop is blocked."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any, cast

from workflow_runtime.errors import LeaseLostError
from workflow_runtime.store import LeaseRenewal, LeaseRenewer, SupportsHeartbeats

from ..cases import clause
from ..harness import StoreHarness
from ..samples import LEASE_MS
from ..scenarios import claim, record, start

_PATIENCE_S = 10.0


class _HeartbeatThread(threading.Thread):
    """A thread that renews a lease once."""

    def __init__(self, store: object, arguments: dict[str, Any]) -> None:
        super().__init__(daemon=True)
        self.outcome: LeaseRenewal | Exception | None = None
        self._store = cast("SupportsHeartbeats", store)
        self._arguments = arguments
        self.start()

    def run(self) -> None:
        try:
            self.outcome = asyncio.run(self._renew())
        except Exception as error:  # noqa: BLE001  # it is the outcome, and this is a thread
            self.outcome = error

    async def _renew(self) -> LeaseRenewal:
        async with self._store.open_heartbeats() as renewer:
            return await renewer.heartbeat_run_lease(**self._arguments)


@clause("HEARTBEAT-1", "HEARTBEAT-2", "LEASE-1", capability="heartbeats")
async def lease_is_renewed_while_the_event_loop_stands_still(h: StoreHarness) -> None:
    """A thread opens, renews and closes while the store's event loop is blocked."""
    holder = await start(h, lease_ms=1_000)
    beat = _HeartbeatThread(h.store, holder.heartbeat_arguments(now_ms=h.now_ms + 600))
    end = time.monotonic() + _PATIENCE_S
    while beat.is_alive() and time.monotonic() < end:
        time.sleep(0.001)  # noqa: ASYNC251  # blocks on purpose
    assert not beat.is_alive(), "the heartbeat waited for the store's event loop"
    assert isinstance(beat.outcome, LeaseRenewal), beat.outcome
    assert beat.outcome.lease_expires_at_ms == h.now_ms + 600 + LEASE_MS
    assert (await record(h, holder.run_id)).lease_expires_at_ms == h.now_ms + 600 + LEASE_MS


@clause("HEARTBEAT-2", "LEASE-1", "LEASE-2", capability="heartbeats")
async def heartbeats_on_their_own_connection_tell_what_others_do(h: StoreHarness) -> None:
    """A renewal on the connection of its own answers the inbox number, and raises when another worker has the run."""
    holder = await start(h, lease_ms=1_000)
    await holder.signal()
    opened = cast("SupportsHeartbeats", h.store).open_heartbeats()
    async with opened as renewer:
        assert (await _renew(renewer, holder.heartbeat_arguments(lease_ms=1_000))).inbox_seq == 1
        await claim(h, holder.run_id, store=h.second, now_ms=h.advance(1_000))
        try:
            await _renew(renewer, holder.heartbeat_arguments())
        except LeaseLostError:
            return
        raise AssertionError("a lost lease was renewed")


@clause("HEARTBEAT-2", "LEASE-4", capability="heartbeats")
async def heartbeats_of_many_on_their_own_connection_are_those_of_the_store(h: StoreHarness) -> None:
    """Of three leases on the connection of its own one is lost, and the others are renewed."""
    holders = [await start(h, lease_ms=1_000) for _ in range(3)]
    lost = holders[1]
    await holders[2].signal()
    await claim(h, lost.run_id, store=h.second, now_ms=h.advance(1_000))
    leases = [(holder.run_id, holder.token) for holder in holders]
    async with cast("SupportsHeartbeats", h.store).open_heartbeats() as renewer:
        answers = await renewer.heartbeat_run_leases(leases=leases, lease_ms=LEASE_MS, now_ms=h.now_ms)
    assert [answer.kind for answer in answers] == ["renewed", "lost", "renewed"]
    assert [answer.inbox_seq for answer in answers if isinstance(answer, LeaseRenewal)] == [0, 1]
    for holder in (holders[0], holders[2]):
        assert (await record(h, holder.run_id)).lease_expires_at_ms == h.now_ms + LEASE_MS


@clause("HEARTBEAT-3", capability="heartbeats")
async def store_outlives_its_heartbeats(h: StoreHarness) -> None:
    """Leaving the block closes only the connection that was opened; another one can be opened."""
    holder = await start(h)
    for _ in range(2):
        async with cast("SupportsHeartbeats", h.store).open_heartbeats() as renewer:
            await _renew(renewer, holder.heartbeat_arguments())
        await holder.append()


async def _renew(renewer: LeaseRenewer, arguments: dict[str, Any]) -> LeaseRenewal:
    return await renewer.heartbeat_run_lease(**arguments)
