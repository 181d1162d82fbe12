"""A real PgBouncer for tests, in transaction mode: the machine's, or one from Debian's packages, without root.

Nothing is installed: packages are downloaded and unpacked beside nox's environments.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from urllib.parse import unquote, urlsplit

from workflow_test_support.servers.downloads import fetch_once, run
from workflow_test_support.servers.postgres_server import as_somebody_else, free_port

__all__ = ["PgBouncer", "PgBouncerNotFoundError"]

_START_TIMEOUT_S = 20
_STOP_TIMEOUT_S = 20
_EXPLICIT_STATEMENTS_SINCE = (1, 21)

# The next test gets a database whose sessions have just been ended: the pooler tries each before it lends it again.
_CONFIGURATION = """
[databases]
* = host={host} port={port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 10
server_check_delay = 0
max_client_conn = 1000
"""

# Ends with the process that started it, however that ends: then nobody holds the pipe any more.
_GUARD = 'folder=$1; shift; "$@" & read -r line; kill -KILL $!; rm -rf "$folder"'


class PgBouncerNotFoundError(Exception):
    """There is no way to get a PgBouncer here; the text says what was tried."""

    def __init__(self, problem: object) -> None:
        super().__init__(
            "these tests need PgBouncer: install it, or run them where `apt-get download pgbouncer` works "
            f"and its libraries fit ({problem})"
        )


class PgBouncer:
    """A pooler in transaction mode before a server, on a free port of 127.0.0.1.

    Args:
        server_dsn: The server, with a host and a port. Any of its databases can be reached through the pooler.

    Raises:
        PgBouncerNotFoundError: There is none to be had.
    """

    def __init__(self, server_dsn: str) -> None:
        self._program, self._libraries = _find_program()
        self._server = urlsplit(server_dsn)
        self._port = free_port()
        self._folder = Path(tempfile.mkdtemp(prefix="pgbouncer-"))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """The server's DSN, but through the pooler."""
        return self._server._replace(netloc=f"{self._user}@127.0.0.1:{self._port}").geturl()

    def __enter__(self) -> PgBouncer:
        prefix, user = as_somebody_else(self._folder)
        configuration = self._write_configuration()
        with (self._folder / "log").open("wb") as log:
            self._process = subprocess.Popen(
                ["/bin/sh", "-c", _GUARD, "guard", self._folder, *prefix, self._program, configuration],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                cwd="/",
                env={**os.environ, "LD_LIBRARY_PATH": self._libraries},
                user=user,
                group=user,
                extra_groups=None if user is None else [],
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop()

    @property
    def _user(self) -> str:
        return unquote(self._server.username or "postgres")

    def _write_configuration(self) -> Path:
        users, configuration = self._folder / "users", self._folder / "pgbouncer.ini"
        # With the password it opens its own sessions; clients need none.
        users.write_text(f"{_quoted(self._user)} {_quoted(unquote(self._server.password or ''))}\n", encoding="utf-8")
        text = _CONFIGURATION.format(
            host=self._server.hostname or "127.0.0.1",
            port=self._server.port or 5432,
            users=users,
            listen_port=self._port,
        )
        if _version(self._program, self._libraries) >= _EXPLICIT_STATEMENTS_SINCE:
            text += "max_prepared_statements = 0\n"  # as all versions were before, and as many are set up
        configuration.write_text(text, encoding="utf-8")
        return configuration

    def _wait_until_ready(self) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        while True:
            try:
                with socket.create_connection(("127.0.0.1", self._port), timeout=1):
                    return
            except OSError as error:
                if time.monotonic() > end:
                    said = (self._folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"pgbouncer did not start:\n{said}") from error
            time.sleep(0.02)

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.communicate(timeout=_STOP_TIMEOUT_S)
        shutil.rmtree(self._folder, ignore_errors=True)


def _quoted(value: str) -> str:
    return '"' + value.replace('"', '""') + '"'


def _find_program() -> tuple[Path, str]:
    """Return the program and where its libraries are."""
    installed = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if installed is not None:
        return Path(installed), os.environ.get("LD_LIBRARY_PATH", "")
    try:
        root = fetch_once("pgbouncer", _fetch)
        program, libraries = root / "usr" / "sbin" / "pgbouncer", str(_libraries(root))
        _version(program, libraries)
    except OSError as error:
        raise PgBouncerNotFoundError(error) from error
    return program, libraries


def _fetch(folder: Path) -> None:
    """Unpack Debian's package and those of its libraries that the machine lacks."""
    lists, archives = folder / "lists", folder / "archives"
    for made in (lists / "partial", archives / "partial"):
        made.mkdir(parents=True)
    # Lists of our own: the machine's may be missing or old, and are not ours to renew.
    options = ("-o", f"Dir::State::lists={lists}", "-o", f"Dir::Cache={folder}", "-o", "APT::Sandbox::User=root")
    run("apt-get", *options, "update")
    depends = run("apt-cache", *options, "depends", "pgbouncer")
    wanted = [name for name in re.findall(r"Depends: (lib[\w.+-]+)", depends) if not _is_installed(name)]
    run("apt-get", *options, "download", "pgbouncer", *wanted, cwd=archives)
    for package in archives.glob("*.deb"):
        run("dpkg", "-x", package, folder)
    shutil.rmtree(lists)
    shutil.rmtree(archives)


def _is_installed(package: str) -> bool:
    try:
        return "install ok installed" in run("dpkg-query", "-W", "-f", "${Status}", package)
    except OSError:
        return False


def _libraries(root: Path) -> Path:
    return root / "usr" / "lib" / f"{platform.machine()}-linux-gnu"


def _version(program: Path, libraries: str) -> tuple[int, ...]:
    found = re.search(
        r"PgBouncer (\d+)\.(\d+)", run("env", f"LD_LIBRARY_PATH={libraries}", program, "--version"), re.IGNORECASE
    )
    if found is None:
        raise OSError(f"{program} does not say which version it is")
    return tuple(int(number) for number in found.groups())
