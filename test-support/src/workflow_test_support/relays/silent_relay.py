"""A TCP relay before a server, on a thread of its own, that falls silent: connections stay open and bring nothing.

That is what a pulled cable or a firewall does. The test's own event loop and the relay do not hold each other up.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from urllib.parse import urlsplit

from workflow_test_support.relays.tcp_server import tcp_connection, tcp_server

__all__ = ["SilentRelay", "silent_relay_to"]

T = TypeVar("T")

_CHUNK = 65_536


class SilentRelay:
    """The switches of one relay. They may be used from any thread."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self.dsn = ""
        self.drops_questions = False
        """True if what clients send is lost from now on, on all connections."""
        self.drops_answers = False
        """True if what the server sends is lost from now on, on all connections."""
        self.falls_silent_at: bytes | None = None
        """Bytes of a client at which its connection, and all others, fall silent; they are lost already."""
        self.loses_answer_to: bytes | None = None
        """The same, but the server still hears this last word."""
        self.silent_connections = 0
        """Number of connections that have lost something; they stay silent for ever."""
        self.connections = 0
        """Number of open connections."""

    def fall_silent(self) -> None:
        """Carry nothing any more, in neither direction."""
        self.drops_questions = self.drops_answers = True

    def restore(self) -> None:
        """Carry new connections. Those that have lost something stay silent."""
        self.falls_silent_at = self.loses_answer_to = None
        self.drops_questions = self.drops_answers = False

    def wait_until_silent(self, timeout_s: float = 30) -> None:
        """Wait until a connection has lost something; blocks the thread."""
        end = time.monotonic() + timeout_s
        while not self.silent_connections:
            if time.monotonic() > end:
                raise TimeoutError
            time.sleep(0.01)

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self.connections += 1
        try:
            await _Connection(self, client, to_client).carry(self._host, self._port)
        finally:
            self.connections -= 1


class _Connection:
    def __init__(self, relay: SilentRelay, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._relay = relay
        self._client = client
        self._to_client = to_client
        self._loses_questions = self._loses_answers = False

    async def carry(self, host: str, port: int) -> None:
        async with tcp_connection(host, port) as (server, to_server):
            both = [
                asyncio.ensure_future(self._carry_questions(to_server)),
                asyncio.ensure_future(self._carry_answers(server)),
            ]
            try:
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in both:
                    task.cancel()
                await asyncio.gather(*both, return_exceptions=True)

    async def _carry_questions(self, to_server: asyncio.StreamWriter) -> None:
        relay = self._relay
        with contextlib.suppress(ConnectionError):
            while data := await self._client.read(_CHUNK):
                if relay.falls_silent_at is not None and relay.falls_silent_at in data:
                    relay.fall_silent()
                if relay.drops_questions:
                    self._note_silence()
                    self._loses_questions = True
                if not self._loses_questions:
                    if relay.loses_answer_to is not None and relay.loses_answer_to in data:
                        relay.fall_silent()
                    to_server.write(data)

    async def _carry_answers(self, server: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await server.read(_CHUNK):
                if self._relay.drops_answers:
                    self._note_silence()
                    self._loses_answers = True
                if not self._loses_answers:
                    self._to_client.write(data)
            if self._loses_answers or self._relay.drops_answers:
                await asyncio.get_running_loop().create_future()  # nor does the client hear that the server is gone

    def _note_silence(self) -> None:
        if not (self._loses_questions or self._loses_answers):
            self._relay.silent_connections += 1


@contextmanager
def silent_relay_to(dsn: str) -> Iterator[SilentRelay]:
    """Put a relay before the server of a DSN (with a host and a port); `dsn` of the result goes through it."""
    parts = urlsplit(dsn)
    relay = SilentRelay(parts.hostname or "127.0.0.1", parts.port or 5432)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="silent relay", daemon=True)
    thread.start()
    server = tcp_server(relay.serve)
    port = _on(loop, server.__aenter__())
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    relay.dsn = parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
    try:
        yield relay
    finally:
        _on(loop, server.__aexit__(None, None, None))
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def _on(loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(work, loop).result(10)
