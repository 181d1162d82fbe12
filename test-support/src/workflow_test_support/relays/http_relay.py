"""A TCP relay before an HTTP server: counts requests and connections, and breaks them where a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from workflow_test_support.relays.tcp_server import tcp_connection, tcp_server

__all__ = ["Fault", "Relay", "cut_before", "gateway", "hang", "lose_answer", "relay_to", "trickle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The fate of one request."""

    forwarded: bool
    """True if the server gets it, and does what it asks."""
    answer: bytes | None = None
    """Answer for the client in place of the server's; without one, its connection ends."""
    hang: bool = False
    """True if the client gets nothing for as long as it waits."""
    trickle_s: float | None = None
    """After how long the client gets another byte of an answer that never ends."""


cut_before = Fault(forwarded=False)
"""The connection ends, and the server has seen nothing."""
lose_answer = Fault(forwarded=True)
"""The server has answered; the connection ends before its answer is through."""
hang = Fault(forwarded=True, hang=True)
"""The server has answered, and nobody learns of it."""


def trickle(every_s: float) -> Fault:
    """Make a fault whose answer comes a byte at a time, and never whole."""
    return Fault(forwarded=True, trickle_s=every_s)


def gateway(
    status: int, headers: Mapping[str, str] | None = None, body: bytes = b"", *, forwarded: bool = False
) -> Fault:
    """Make a fault that answers in the place of the server."""
    lines = [f"HTTP/1.1 {status} Because", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return Fault(forwarded=forwarded, answer="\r\n".join([*lines, "", ""]).encode() + body)


@dataclass(slots=True)
class Relay:
    """The counts and switches of one relay."""

    host: str
    port: int
    url: str = ""
    faults: dict[int, Fault] = field(default_factory=dict)
    """By the number of the request, from 1."""
    always: Fault | None = None
    """Fault of all other requests."""
    gate: asyncio.Event | None = None
    """Event that requests wait for before they are dealt with."""
    requests: int = 0
    connections: int = 0
    """Number of open connections."""
    most_connections: int = 0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)

    def next(self, *faults: Fault) -> None:
        """Plan what becomes of the next requests."""
        for number, fault in enumerate(faults, start=self.requests + 1):
            self.faults[number] = fault

    async def serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        """Carry one connection, request by request."""
        self._writers.add(to_client)
        self.connections += 1
        self.most_connections = max(self.most_connections, self.connections)
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._carry(client, to_client):
                    pass
        finally:
            self.connections -= 1
            self._writers.discard(to_client)

    def cut(self) -> None:
        """Break all connections."""
        if self.gate is not None:
            self.gate.set()
        for writer in self._writers:
            writer.transport.abort()

    async def _carry(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> bool:
        request = await _read_message(client)
        self.requests += 1
        fault = self.faults.pop(self.requests, self.always)
        if self.gate is not None:
            await self.gate.wait()
        answer = await self._ask(request) if fault is None or fault.forwarded else b""
        if fault is not None and fault.hang:
            await client.read()  # until the client goes
            return False
        if fault is not None and fault.trickle_s is not None:
            await _trickle(to_client, fault.trickle_s)
            return False
        to_client.write(answer if fault is None else fault.answer or b"")
        await to_client.drain()
        return fault is None

    async def _ask(self, request: bytes) -> bytes:
        """Send a request on a connection of its own, and read the answer to its end."""
        async with tcp_connection(self.host, self.port) as (server, to_server):
            to_server.write(request)
            return await _read_message(server)


async def _trickle(to_client: asyncio.StreamWriter, every_s: float) -> None:
    to_client.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while not to_client.is_closing():
        await asyncio.sleep(every_s)
        to_client.write(b" ")
        await to_client.drain()


async def _read_message(stream: asyncio.StreamReader) -> bytes:
    """Read a request or an answer, whose head tells how long it is."""
    head = await stream.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if line)
    if fields.get(b"transfer-encoding", b"").strip() == b"chunked":
        return head + await _read_chunks(stream)
    return head + await stream.readexactly(int(fields.get(b"content-length", b"0")))


async def _read_chunks(stream: asyncio.StreamReader) -> bytes:
    chunks = b""
    while True:
        size = await stream.readuntil(b"\r\n")
        chunk = await stream.readexactly(int(size, 16) + 2)
        chunks += size + chunk
        if int(size, 16) == 0:
            return chunks


@asynccontextmanager
async def relay_to(url: str) -> AsyncIterator[Relay]:
    """Put a relay before the server of a URL; `url` of the result goes through it, with the same path."""
    parts = urlsplit(url)
    relay = Relay(parts.hostname or "127.0.0.1", parts.port or 80)
    async with tcp_server(relay.serve) as port:
        relay.url = parts._replace(netloc=f"127.0.0.1:{port}").geturl()
        yield relay
