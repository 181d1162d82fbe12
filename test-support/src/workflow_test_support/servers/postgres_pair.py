"""Two servers: a primary whose every commit waits for the standby, and a failover between them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from workflow_test_support.servers.postgres_server import LocalServer, program
from workflow_test_support.servers.postgres_standby import Standby

__all__ = ["ServerPair"]

_TIMEOUT_S = 60
_LAST_MOMENTS_S = 0.3


class ServerPair:
    """A primary and its synchronous standby, both started by us on 127.0.0.1."""

    def __init__(self) -> None:
        self._primary = LocalServer(durable=True)
        self._standby = Standby(self._primary, durable=True)
        self._failed_over = False

    @property
    def dsn(self) -> str:
        """Names both servers; whoever connects gets the one that takes writes."""
        hosts = ",".join(server.address for server in (self._primary, self._standby))
        return f"postgresql://postgres@{hosts}/postgres?target_session_attrs=read-write"

    def __enter__(self) -> ServerPair:
        try:
            self._primary.__enter__()
            self._standby.__enter__()
            self._make_synchronous()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def has_standby(self) -> bool:
        """True if there was no failover yet."""
        return not self._failed_over

    @contextmanager
    def held_replication(self) -> Iterator[int]:
        """Keep news from the standby: commits wait, and whoever is cut off meanwhile has committed all the same.

        Yields:
            The process of the primary that sends.
        """
        sender = int(_ask(self._primary, "SELECT pid FROM pg_stat_replication"))
        os.kill(sender, signal.SIGSTOP)
        try:
            yield sender
        finally:
            with suppress(ProcessLookupError):
                os.kill(sender, signal.SIGCONT)

    def fail_over(self) -> None:
        """Kill the primary and let the standby take its place; it stays alone from then on.

        The standby hears nothing of the primary's last moments: what was acknowledged without it would be lost. Those
        whose commits wait are cut off in between. They have committed, so they find it done when they ask again.
        """
        with self.held_replication() as sender:
            time.sleep(_LAST_MOMENTS_S)
            _ask(self._primary, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'")
            time.sleep(_LAST_MOMENTS_S)
            self._primary.stop(signal.SIGKILL)
            os.kill(sender, signal.SIGKILL)
        self._failed_over = True
        _ask(self._standby, "SELECT pg_promote()")

    def _make_synchronous(self) -> None:
        # Only now: before there was a standby, every commit would have waited for one.
        _ask(self._primary, "ALTER SYSTEM SET synchronous_standby_names = '*'")
        _ask(self._primary, "SELECT pg_reload_conf()")
        end = time.monotonic() + _TIMEOUT_S
        while _ask(self._primary, "SELECT sync_state FROM pg_stat_replication") != "sync":
            if time.monotonic() > end:
                raise RuntimeError("the standby does not become synchronous")
            time.sleep(0.02)

    def _stop(self) -> None:
        # A primary that is asked to end waits until the standby has everything: it need not.
        self._primary.stop(signal.SIGQUIT)
        self._standby.__exit__()
        self._primary.__exit__()


def _ask(server: LocalServer, sql: str) -> str:
    done = subprocess.run(
        [program("psql"), "-X", "-A", "-t", "-c", sql, server.dsn],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{sql!r} failed:\n{done.stderr}")
    return done.stdout.strip()
