"""The handler of one run."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from ..clock import from_ms
from ..store import RunRecord
from .context import Context
from .definition import Workflow
from .driver_settings import DriverSettings
from .machine import Machine
from .traced_machine import TracedMachine

__all__ = ["RunHandler"]


class RunHandler:
    """A workflow's function together with the input of one run. A machine runs it.

    Args:
        settings: What all drivers share.
        run: The run.
        workflow: Whose function it is.
    """

    def __init__(self, settings: DriverSettings, run: RunRecord, workflow: Workflow[Any, Any]) -> None:
        self._settings = settings
        self._run = run
        self._workflow = workflow

    def machine(self) -> Machine:
        """Return a machine that can run it."""
        return Machine(self._run.run_id, self._workflow.package)

    def traced_machine(self) -> TracedMachine:
        """Return a machine that can run it and keeps what it asks for."""
        return TracedMachine(self._run.run_id, self._workflow.package, self._settings.codec)

    def on(self, machine: Machine) -> Callable[[], Awaitable[Any]]:
        """Return the function for `Machine.start`. Its durable operations are those of this machine."""
        run, settings = self._run, self._settings
        context = Context(
            machine=machine,
            run_id=run.run_id,
            schedule_id=run.schedule_id,
            scheduled_at=None if run.scheduled_at_ms is None else from_ms(run.scheduled_at_ms),
            codec=settings.codec,
            retry=self._workflow.retry,
            max_payload_bytes=settings.store.capabilities.max_payload_bytes,
            now_ms=settings.clock.now_ms,
            store=settings.store,
        )

        async def handler() -> Any:
            return await self._workflow.handler(context, settings.codec.decode(run.input))

        return handler
