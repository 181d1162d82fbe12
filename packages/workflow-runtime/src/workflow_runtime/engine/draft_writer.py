"""Writing the draft of the log."""

from __future__ import annotations

from .log_draft import LogDraft
from .replay_check import ReplayCheck
from .run_writer import RunWriter

__all__ = ["DraftWriter"]


class DraftWriter:
    """The way from the draft into the log, for every write that does not end the drive.

    Args:
        writer: Writes it.
        draft: What is written.
        check: Made after each write, where tests ask for it.
    """

    def __init__(self, *, writer: RunWriter, draft: LogDraft, check: ReplayCheck | None) -> None:
        self._writer = writer
        self._draft = draft
        self._check = check

    async def write_all(self) -> None:
        """Write until the draft is empty: one write takes a limited number of timers."""
        while not self._draft.empty:
            await self.write()

    async def write(self) -> None:
        """Append the draft to the log."""
        await self._writer.append(self._draft.write())
        self._draft.written()
        if self._check is not None:
            await self._check.run()
