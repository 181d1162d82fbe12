"""The file: lines that are only ever added, by one process at a time."""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from workflow_runtime.store import ConfigurationError, StoreOperationError

__all__ = ["LineFile"]


class LineFile:
    """One handle on the file, which is created when it is not there, and how far this handle has read."""

    def __init__(self, path: str | Path) -> None:
        self.path = path
        self.position = 0
        """Where the next line begins that this handle has not read."""
        self._turn = asyncio.Lock()
        try:
            self._descriptor: int | None = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise StoreOperationError(str(error)) from error

    @property
    def descriptor(self) -> int:  # the open file
        if self._descriptor is None:
            raise ConfigurationError("the store is closed")
        return self._descriptor

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Hold the file alone, among the tasks of this handle and among all other handles."""
        async with self._turn:
            # Asking again, not waiting: the lock's holder may be another task of this very event loop.
            while not self._try_lock():  # noqa: ASYNC110  # nobody can set an event in another process
                await asyncio.sleep(0.0005)
            try:
                yield
            finally:
                if self._descriptor is not None:
                    fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _try_lock(self) -> bool:
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def new_lines(self) -> Iterator[tuple[int, bytes]]:
        """Give each line that this handle has not read, with its place. A line without its end was never finished."""
        size = os.fstat(self.descriptor).st_size
        unread = os.pread(self.descriptor, size - self.position, self.position)
        for line in unread.splitlines(keepends=True):
            if line.endswith(b"\n"):
                place = self.position
                self.position += len(line)
                yield place, line

    def add(self, line: bytes) -> None:
        """Write a line at the end, over what is left of an unfinished one, and wait until it is on the disk."""
        try:
            os.ftruncate(self.descriptor, self.position)
            os.pwrite(self.descriptor, line, self.position)
            os.fsync(self.descriptor)
        except OSError as error:
            raise StoreOperationError(str(error)) from error
        self.position += len(line)

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
