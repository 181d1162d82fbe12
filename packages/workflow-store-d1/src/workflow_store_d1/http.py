"""A `D1Database` over Cloudflare's HTTP API, for programs outside of Workers.

Each batch is one request, and one transaction there. It goes to `/raw`, which gives each column's name once and not
with every row; `/query`, for a gateway that knows nothing else, is understood as well.

What certainly was not done is repeated here, and so is what only reads. A write whose answer was lost is not: nobody
here knows whether the SQL may run twice. It raises with `outcome_unknown`, and the store's sender, which knows its own
batches, repeats those.

No call waits for ever: `timeout` bounds how long it waits for its turn and for each step of its request, and a request
ends after four times that, however slowly its answer trickles in.

The token is in the requests only. Errors of httpx are not kept as causes, because their requests carry it.
Nothing imports httpx before a database is made.
"""

from __future__ import annotations

import asyncio
import re
import warnings
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache, lru_cache
from types import ModuleType, TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeAlias, get_args

from workflow_migrations import split_statements
from workflow_runtime.store import ConfigurationError, Home, InvalidArgumentError, check_duration

from .database import D1DatabaseError, D1PreparedStatement, D1Value
from .limits import check_statement, check_values, first_keyword
from .metering import spend_repeat
from .rest import HttpResult, check_wire_values, read_answer, request_body
from .retries import Retries, was_not_done

if TYPE_CHECKING:
    import ssl

    import httpx

__all__ = ["API_URL", "D1HttpDatabase", "Form", "HttpStatement"]

API_URL = "https://api.cloudflare.com/client/v4"

Form: TypeAlias = Literal["raw", "query"]
"""The two calls of the API that run SQL."""

_ID = re.compile(r"[A-Za-z0-9_-]{1,100}")
_TOKEN = re.compile(r"[!-~]+")
_STEPS_OF_A_REQUEST = 4
"""Connecting, sending, waiting for the answer, reading it: each may take the timeout, and the whole request no more."""

_LAST_WAIT_S = 5.0
"""The longest wait for abandoned connections to end."""

_READS = frozenset({"EXPLAIN", "SELECT", "VALUES"})
"""First words of statements that cannot write. `WITH` can."""


class HttpStatement:
    """One statement with its values."""

    __slots__ = ("_database", "sql", "values")

    def __init__(self, database: D1HttpDatabase, sql: str, values: tuple[D1Value, ...]) -> None:
        self._database = database
        self.sql: str = sql
        self.values: tuple[D1Value, ...] = values

    def bind(self, *values: D1Value) -> Self:
        """Return a statement of the same text with these values for `?1`, `?2` and so on."""
        check_values(values)
        check_wire_values(values)
        return type(self)(self._database, self.sql, values)

    async def all(self) -> HttpResult:
        """Run it as a transaction of its own and give its rows."""
        (result,) = await self._database.batch([self])
        return result

    async def run(self) -> HttpResult:
        """Run it as a transaction of its own."""
        return await self.all()


class D1HttpDatabase:
    """A D1 database behind the HTTP API. `close` it, or use `async with`.

    Args:
        account_id: Of the Cloudflare account.
        database_id: Of the database; a UUID, not its name.
        token: An API token with the permission D1:Edit.
        base_url: Where the API is.
        timeout: For each step of a request: connecting, sending, waiting for the answer; and for a call's turn. A whole
            request ends after four times that.
        max_connections: At most so many requests at once; further calls wait.
        form: Which of the API's two calls to use.
        retries: How a call is repeated that certainly had no effect.
        client: A client of your own, which you close. Let it have as many connections as `max_connections` says.

    Raises:
        ConfigurationError: httpx is not installed.
        InvalidArgumentError: An unusable argument.
    """

    def __init__(
        self,
        account_id: str,
        database_id: str,
        token: str,
        *,
        base_url: str = API_URL,
        timeout: timedelta = timedelta(seconds=30),
        max_connections: int = 6,
        form: Form = "raw",
        retries: Retries | None = None,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        _check_ids(account_id, database_id, token)
        _check_options(base_url, timeout, max_connections, form)
        self._httpx = _httpx()
        self._secrets = _Secrets(token, account_id)
        self._url = f"{base_url.rstrip('/')}/accounts/{account_id}/d1/database/{database_id}/{form}"
        self._name = database_id
        self._timeout_s = timeout.total_seconds()
        self._retries = retries or Retries()
        self._closed = False
        self._own_client = client is None
        self._client: httpx.AsyncClient = client or self._new_client(max_connections)
        self._turns = asyncio.Semaphore(max_connections)
        self._home = Home("this D1 store over HTTP")
        self._used = False
        self._under_way: set[asyncio.Task[httpx.Response | D1DatabaseError]] = set()
        self._abandoned: set[asyncio.Task[httpx.Response | D1DatabaseError]] = set()

    @property
    def _longest_s(self) -> float:
        return _STEPS_OF_A_REQUEST * self._timeout_s

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._name!r})"

    def prepare(self, sql: str) -> HttpStatement:
        """Make a statement of SQL text."""
        check_statement(sql)
        _check_single(sql)
        return HttpStatement(self, sql, ())

    async def batch(self, statements: Sequence[D1PreparedStatement]) -> list[HttpResult]:
        """Run statements in order as one transaction: all or none."""
        self._home.check()
        mine = _own(statements)
        if not mine:
            raise D1DatabaseError("a batch without statements")
        body = request_body([(statement.sql, statement.values) for statement in mine])
        reads = all(first_keyword(statement.sql) in _READS for statement in mine)
        sent = False

        async def send() -> list[HttpResult]:
            nonlocal sent
            if sent:
                spend_repeat(len(mine))
            sent = True
            return await self._try(body, len(mine), reads)

        return await self._retries.run(send, was_not_done)

    async def close(self) -> None:
        """Finish what somebody waits for, and end the connections. A second call does nothing.

        In a forked child it does nothing: the connections are the parent's. On another event loop than that of the
        connections, which must be closed then, they are dropped.
        """
        self._closed = True
        if self._home.is_inherited:
            return
        await self._finish_under_way()
        if self._own_client:
            # Connections of a closed event loop cannot be closed properly.
            with suppress(TimeoutError, RuntimeError):
                async with asyncio.timeout(_LAST_WAIT_S):
                    await self._client.aclose()

    async def _finish_under_way(self) -> None:
        for exchange in self._abandoned:
            exchange.cancel()
        here = asyncio.get_running_loop()
        mine = {exchange for exchange in self._under_way if exchange.get_loop() is here}
        if mine:
            _, late = await asyncio.wait(mine, timeout=self._longest_s)
            for exchange in late:
                exchange.cancel()
            if late:
                await asyncio.wait(late, timeout=_LAST_WAIT_S)

    def __del__(self) -> None:
        # The object may be half-initialised, if an argument was refused.
        used = getattr(self, "_used", False)
        if used and not self._closed and self._own_client and not self._home.is_inherited:
            problem = f"nobody closed the D1 store over HTTP ({self!r}): use `async with`, or `await store.close()`"
            warnings.warn(problem, ResourceWarning, stacklevel=2, source=self)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _new_client(self, max_connections: int) -> httpx.AsyncClient:
        limits = self._httpx.Limits(max_connections=max_connections, max_keepalive_connections=max_connections)
        client: httpx.AsyncClient = self._httpx.AsyncClient(limits=limits, verify=_trusted())
        return client

    async def _try(self, body: bytes, count: int, reads: bool) -> list[HttpResult]:
        answer = await self._in_turn(body)
        try:
            if isinstance(answer, D1DatabaseError):
                raise answer
            return read_answer(answer.status_code, answer.headers, answer.content, count)
        except D1DatabaseError as error:
            # What only reads has no effect that could be unknown.
            error.outcome_unknown = error.outcome_unknown and not reads
            error.problem = self._secrets.hide(error.problem)
            error.args = (error.problem,)
            raise

    async def _in_turn(self, body: bytes) -> httpx.Response | D1DatabaseError:
        """Send a request when it is its turn. A cancelled caller leaves it to its end.

        httpx's pool loses a connection for good where a call is cancelled that waits for it or has just got it.
        """
        await self._wait_for_turn()
        if self._closed or self._client.is_closed:
            self._turns.release()
            raise ConfigurationError("the database is closed")
        self._used = True
        exchange = asyncio.ensure_future(self._exchange(body))
        self._under_way.add(exchange)
        exchange.add_done_callback(self._ended)
        try:
            return await asyncio.shield(exchange)
        except asyncio.CancelledError:
            self._abandon(exchange)
            raise

    def _abandon(self, exchange: asyncio.Task[httpx.Response | D1DatabaseError]) -> None:
        if self._closed:
            exchange.cancel()
        elif not exchange.done():
            self._abandoned.add(exchange)

    async def _wait_for_turn(self) -> None:
        if not self._turns.locked():
            await self._turns.acquire()  # at once
            return
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.acquire()
        except TimeoutError:
            problem = f"no connection to the API was free for {self._timeout_s:g} s"
            raise D1DatabaseError(problem, unavailable=True) from None

    def _ended(self, exchange: asyncio.Task[httpx.Response | D1DatabaseError]) -> None:
        self._turns.release()
        self._under_way.discard(exchange)
        self._abandoned.discard(exchange)
        if not exchange.cancelled():
            exchange.exception()  # retrieve it, or asyncio logs it after a cancelled wait

    async def _exchange(self, body: bytes) -> httpx.Response | D1DatabaseError:
        """Send a request; an error is given back and not raised, so that it has nothing of httpx in its chain."""
        try:
            async with asyncio.timeout(self._longest_s):
                return await self._client.post(
                    self._url,
                    content=body,
                    headers={"content-type": "application/json", "accept": "application/json"},
                    auth=self._secrets.sign,
                    timeout=self._timeout_s,
                    follow_redirects=False,
                )
        except self._httpx.RequestError as error:
            return self._network_error(error)
        except TimeoutError:
            problem = f"no whole answer from the API within {self._longest_s:g} s"
            return D1DatabaseError(problem, unavailable=True, outcome_unknown=True)

    def _network_error(self, error: Exception) -> D1DatabaseError:
        httpx = self._httpx
        never_sent = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
        said = f": {error}" if str(error) else ""
        return D1DatabaseError(
            f"no answer from the API ({type(error).__name__}{said})",
            unavailable=True,
            outcome_unknown=not isinstance(error, never_sent),
        )


class _Secrets:
    """Words that no text may show. It has no telling `repr`, because tools write down the variables of a traceback."""

    __slots__ = ("_account_id", "_token")

    def __init__(self, token: str, account_id: str) -> None:
        self._token = token
        self._account_id = account_id

    def sign(self, request: httpx.Request) -> httpx.Request:
        """Put the token into a request."""
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request

    def hide(self, text: str) -> str:
        """Take the secrets out of a text."""
        return text.replace(self._token, "[token]").replace(self._account_id, "[account]")


@lru_cache(maxsize=512)
def _check_single(sql: str) -> None:
    """Refuse several statements in one text: the API would run them all, and only the first word shows what reads."""
    # The body of a trigger holds semicolons of its own.
    if first_keyword(sql) != "CREATE" and len(split_statements(sql)) > 1:
        raise D1DatabaseError("several statements in one text: make one of each and send them as a batch")


def _own(statements: Sequence[D1PreparedStatement]) -> list[HttpStatement]:
    mine = [statement for statement in statements if isinstance(statement, HttpStatement)]
    if len(mine) != len(statements):
        raise TypeError("a batch takes the statements that prepare() of the same kind of database gave")
    return mine


def _check_ids(account_id: str, database_id: str, token: str) -> None:
    for name, value in (("account_id", account_id), ("database_id", database_id)):
        if not _is_made_of(_ID, value):
            raise InvalidArgumentError(name, "must be an id as the dashboard shows it: letters, digits and hyphens")
    if not _is_made_of(_TOKEN, token):
        raise InvalidArgumentError("token", "must be an API token: visible ASCII characters only")


def _is_made_of(pattern: re.Pattern[str], value: object) -> bool:
    # A variable of the environment that is not set gives None.
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def _check_options(base_url: str, timeout: timedelta, max_connections: int, form: Form) -> None:
    if not re.match(r"https?://[^/]", base_url):
        raise InvalidArgumentError("base_url", "must begin with https:// or http:// and name a host")
    if check_duration("timeout", timeout) <= timedelta(0):
        raise InvalidArgumentError("timeout", "must be positive")
    if max_connections < 1:
        raise InvalidArgumentError("max_connections", "must be at least 1")
    if form not in get_args(Form):
        raise InvalidArgumentError("form", f"must be one of {', '.join(get_args(Form))}")


@cache
def _trusted() -> ssl.SSLContext:
    """Read the certificates once: that takes longer than many a request."""
    context: ssl.SSLContext = _httpx().create_ssl_context()
    return context


def _httpx() -> ModuleType:
    try:
        import httpx  # noqa: PLC0415  # an extra: everything else works without it
    except ImportError as error:
        raise ConfigurationError('D1 over HTTP needs httpx: pip install "workflow-store-d1[http]"') from error
    return httpx
