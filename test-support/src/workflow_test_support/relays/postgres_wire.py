"""A TCP proxy before a PostgreSQL server: counts what goes over the wire, and breaks it where a test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from workflow_test_support.relays.tcp_server import tcp_connection, tcp_server

__all__ = ["Wire", "wire_to"]

_LENGTH_BYTES = 4
_HEADER_BYTES = 5
_ENCRYPTION_REQUESTS = (80877103, 80877104)


class Wire:
    """The proxy's counts and switches."""

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._writers: set[asyncio.StreamWriter] = set()
        self.dsn = ""
        self.trips = 0
        """Number of times that the client sent something after the server's last word."""
        self.statements = 0
        """Number of statements that it had executed."""
        self.refusing = False
        """True if new connections end at once, as when the server is away."""
        self.deaf = False
        """True if notices are kept from the client, as a pooler in transaction mode does."""
        self.swallow_answers = 0
        """From so many answers the client gets nothing, and then its connection breaks."""

    def reset(self) -> None:
        """Count from zero."""
        self.trips = self.statements = 0

    def cut(self) -> None:
        """Break all connections."""
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry one connection."""
        self._writers.add(to_client)
        try:
            if not self.refusing:
                await _Connection(self, client, to_client).carry(self._host, self._port)
        finally:
            self._writers.discard(to_client)


class _Connection:
    def __init__(self, wire: Wire, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._wire = wire
        self._client = client
        self._to_client = to_client
        self._servers_turn = False

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
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            to_server.write(await self._first_message())
            while True:
                header = await self._client.readexactly(_HEADER_BYTES)
                body = await self._client.readexactly(int.from_bytes(header[1:]) - _LENGTH_BYTES)
                self._count(header[:1])
                to_server.write(header + body)

    async def _first_message(self) -> bytes:
        """Read the start of a session, or a request to cancel: messages without a type. Encryption is refused."""
        while True:
            length = await self._client.readexactly(_LENGTH_BYTES)
            body = await self._client.readexactly(int.from_bytes(length) - _LENGTH_BYTES)
            if int.from_bytes(body[:4]) not in _ENCRYPTION_REQUESTS:
                return length + body
            self._to_client.write(b"N")

    def _count(self, kind: bytes) -> None:
        if not self._servers_turn:
            self._servers_turn = True
            self._wire.trips += 1
        if kind in {b"E", b"Q"}:
            self._wire.statements += 1

    async def _carry_answers(self, server: asyncio.StreamReader) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await self._answers(server):
                self._servers_turn = False
                if self._wire.swallow_answers:
                    self._wire.swallow_answers -= 1
                    return
                self._to_client.write(data)

    async def _answers(self, server: asyncio.StreamReader) -> bytes:
        """Read what the server says; where notices are looked for, message by message."""
        if not self._wire.deaf:
            return await server.read(65_536)
        with contextlib.suppress(asyncio.IncompleteReadError):
            while True:
                header = await server.readexactly(_HEADER_BYTES)
                body = await server.readexactly(int.from_bytes(header[1:]) - _LENGTH_BYTES)
                if header[:1] != b"A":
                    return header + body
        return b""


@asynccontextmanager
async def wire_to(dsn: str) -> AsyncIterator[Wire]:
    """Put a proxy before the server of a DSN (with a host and a port); `dsn` of the result goes through it."""
    parts = urlsplit(dsn)
    wire = Wire(parts.hostname or "127.0.0.1", parts.port or 5432)
    user = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    async with tcp_server(wire.serve) as port:
        wire.dsn = parts._replace(netloc=f"{user}127.0.0.1:{port}").geturl()
        yield wire
