"""A worker inside a web application: the server keeps its signals, and every run goes on where it stood.

Real servers, real signals: everything is waited for with a deadline, and the times are printed.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from workflow_store_d1 import SQLiteWorkflowStore

pytestmark = pytest.mark.real_time

PATIENCE_S = 60.0
LEASE_S = float(os.environ.get("WORKFLOW_TEST_WEB_LEASE_S", "3"))
"""Set it to measure how soon another length of the lease lets a killed server go on."""
RUNS = 10
PAGE = Path(__file__).parents[1] / "docs" / "web-applications.md"

APP = """
import asyncio, os, time
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from fastapi import FastAPI, Request
from workflow_runtime import Context, WorkflowRuntime, workflow
from workflow_store_d1 import SQLiteWorkflowStore

def note(what, name):
    with open("journal", "a") as journal:
        journal.write(f"{what} {name}\\n")

async def slow(name, seconds):
    note("begin", name)
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        note("cancel", name)
        raise
    note("end", name)

def plain(name, seconds):
    note("begin", name)
    time.sleep(seconds)
    note("end", name)

@workflow(id="ship")
async def ship(ctx: Context, order):
    function = plain if order["plain"] else slow
    await ctx.step.options(id="first")(function, f"{order['name']}.first", order["seconds"])
    await ctx.step.options(id="second")(slow, f"{order['name']}.second", 0)
    return "done"

@asynccontextmanager
async def lifespan(app: FastAPI):
    async with SQLiteWorkflowStore.open("app.db") as store:
        await store.ensure_schema()
        lease = timedelta(seconds=float(os.environ["LEASE_S"]))
        app.state.runtime = runtime = WorkflowRuntime(store=store, workflows=[ship], lease=lease)
        stop = asyncio.Event()
        worker = asyncio.create_task(runtime.work(stop=stop, concurrency=100, drain_timeout=timedelta(seconds=10)))
        try:
            yield
        finally:
            if os.environ["LIFESPAN"] == "cancel":
                worker.cancel()
            stop.set()
            with suppress(asyncio.CancelledError):
                await worker

app = FastAPI(lifespan=lifespan)

@app.post("/orders/{name}")
async def create(name: str, seconds: float, request: Request, plain: bool = False):
    order = {"name": name, "seconds": seconds, "plain": plain}
    await request.app.state.runtime.start_run(ship, order, run_id=name)

@app.get("/orders/{name}")
async def show(name: str, request: Request):
    return {"status": (await request.app.state.runtime.attach(name).load()).status}

@app.get("/hang")
async def hang():
    note("begin", "hang")
    await asyncio.Event().wait()
"""


class Server:
    """uvicorn with an application of a folder."""

    def __init__(self, folder: Path, app: str, environment: dict[str, str], options: Sequence[str] = ()) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "uvicorn", app, "--port", str(port), "--log-level", "warning", *options]
        self.process = subprocess.Popen(command, cwd=folder, env=os.environ | environment)

    def call(self, method: str, path: str) -> Any:
        request = urllib.request.Request(self.url + path, method=method)
        with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
            return json.load(answer)

    def is_up(self, path: str) -> bool:
        assert self.process.poll() is None, "the server has ended"
        with contextlib.suppress(urllib.error.HTTPError):
            try:
                self.call("GET", path)
            except urllib.error.HTTPError:
                return True
            except (urllib.error.URLError, ConnectionError):
                return False
        return True

    def is_listening(self) -> bool:
        address = urllib.parse.urlsplit(self.url)
        try:
            socket.create_connection((address.hostname, address.port), PATIENCE_S).close()
        except OSError:
            return False
        return True

    def end(self, number: signal.Signals) -> float:
        """Send a signal and give how long the end took."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(PATIENCE_S)
        return time.monotonic() - started


@contextlib.contextmanager
def serving(
    folder: Path,
    *,
    app: str = "app",
    lifespan: str = "stop",
    path: str = "/openapi.json",
    options: Sequence[str] = (),
) -> Iterator[Server]:
    server = Server(folder, f"app:{app}", {"LIFESPAN": lifespan, "LEASE_S": str(LEASE_S)}, options)
    try:
        until(lambda: server.is_up(path))
        yield server
    finally:
        server.process.kill()
        server.process.wait()


@contextlib.contextmanager
def a_request_that_hangs(server: Server, site: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A client whose request the server has begun, and never answers."""
    code = f"import urllib.request as r; r.urlopen('{server.url}/hang')"
    client = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    try:
        until(lambda: journal(site)["begin hang"])
        yield client
    finally:
        client.kill()
        client.wait()


def until(condition: Callable[[], Any], seconds: float = PATIENCE_S) -> float:
    """Wait for a condition, and tell how long that took."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < seconds, "the condition did not come true"
        time.sleep(0.01)
    return time.monotonic() - started


def journal(folder: Path) -> Counter[str]:
    with contextlib.suppress(FileNotFoundError):
        return Counter((folder / "journal").read_text(encoding="utf-8").splitlines())
    return Counter()


def counted(folder: Path, what: str, suffix: str = "") -> int:
    return sum(n for line, n in journal(folder).items() if line.startswith(f"{what} ") and line.endswith(suffix))


def statuses(folder: Path) -> dict[str, int]:
    async def count() -> dict[str, int]:
        async with SQLiteWorkflowStore.open(folder / "app.db") as store:
            return {status.value: number for status, number in (await store.count_runs()).items() if number}

    return asyncio.run(count())


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "app.py").write_text(APP, encoding="utf-8")
    return tmp_path


def order(server: Server, seconds: float, *, plain: bool = False) -> None:
    """Start runs, and wait until the first step of each has begun."""
    for number in range(RUNS):
        server.call("POST", f"/orders/order-{number}?seconds={seconds}&plain={plain}")
    until(lambda: counted(server.folder, "begin", ".first") == RUNS)


@pytest.mark.parametrize("lifespan", ["stop", "cancel"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_and_hands_its_runs_over(site: Path, number: signal.Signals, lifespan: str) -> None:
    """Steps end (or are cancelled, where the lifespan cancels its worker), and the next server goes on at once."""
    started = time.monotonic()
    with serving(site, lifespan=lifespan) as server:
        up_s = time.monotonic() - started
        order(server, 1.0 if lifespan == "stop" else 60.0)
        ended_s = server.end(number)
    assert ended_s < 20
    assert statuses(site) == {"queued": RUNS}
    ended, cancelled = (RUNS, 0) if lifespan == "stop" else (0, RUNS)
    assert (counted(site, "end", ".first"), counted(site, "cancel", ".first")) == (ended, cancelled)
    if lifespan == "stop":
        with serving(site) as server:
            goes_on_s = until(lambda: statuses(site) == {"finished": RUNS})
            server.end(number)
        assert set(journal(site).values()) == {1}, "a step was made twice"
        print(f"{number.name}: next server finished {RUNS} runs {goes_on_s:.2f} s after it was up")
    print(f"{number.name}, lifespan that says {lifespan}: up in {up_s:.2f} s, ended in {ended_s:.2f} s")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_an_idle_server_at_once(site: Path, number: signal.Signals) -> None:
    with serving(site) as server:
        ended_s = server.end(number)
    assert ended_s < 10
    assert server.process.returncode in (-number, 0, 1, 128 + number)
    print(f"{number.name}, idle: ended in {ended_s:.2f} s")


def test_second_signal_is_the_servers_too(site: Path) -> None:
    """A request that never ends keeps uvicorn waiting; Ctrl-C again makes it end, and the runs are handed over."""
    with serving(site) as server:
        order(server, 60.0)
        with a_request_that_hangs(server, site) as client:
            server.process.send_signal(signal.SIGINT)
            until(lambda: not server.is_listening())  # it has heard the first one, or the two might become one
            assert server.process.poll() is None
            started = time.monotonic()
            server.process.send_signal(signal.SIGINT)
            if sys.version_info >= (3, 12):  # there uvicorn waits for the client, whatever it is sent
                client.kill()
            server.process.wait(PATIENCE_S)
            ended_s = time.monotonic() - started
    assert ended_s < 20
    assert statuses(site) == {"queued": RUNS}
    print(f"SIGINT twice, with a request that hangs: ended in {ended_s:.2f} s")


def test_request_that_hangs_is_given_up_in_time(site: Path) -> None:
    """With a bound for its requests uvicorn ends by one Ctrl-C, on every Python, and the runs are handed over."""
    with serving(site, options=("--timeout-graceful-shutdown", "2")) as server:
        order(server, 60.0)
        with a_request_that_hangs(server, site):
            ended_s = server.end(signal.SIGINT)
    assert ended_s < 20
    assert statuses(site) == {"queued": RUNS}
    print(f"SIGINT, with a request that hangs and is given 2 s: ended in {ended_s:.2f} s")


def test_plain_function_that_outlives_the_server_is_never_run_twice_at_once(site: Path) -> None:
    """The server ends in time, and takes the threads along; their runs go on when the leases have run out."""
    with serving(site) as server:
        order(server, 30.0, plain=True)
        ended_s = server.end(signal.SIGTERM)
    assert ended_s < 20
    assert statuses(site) == {"running": RUNS}
    assert counted(site, "begin", ".first") == RUNS
    print(f"SIGTERM, plain functions of 30 s: ended in {ended_s:.2f} s")


def test_server_that_is_killed_goes_on_after_its_restart(site: Path) -> None:
    """What was recorded is not done again; what was in flight is, when the leases have run out."""
    with serving(site) as server:
        order(server, 60.0)
        server.call("POST", "/orders/quick?seconds=0")
        until(lambda: counted(site, "end", ".second") == 1)
        server.end(signal.SIGKILL)
    killed = time.monotonic()
    (site / "app.py").write_text(APP.replace("asyncio.sleep(seconds)", "asyncio.sleep(0)"), encoding="utf-8")
    with serving(site) as server:
        up_s = time.monotonic() - killed
        until(lambda: statuses(site) == {"finished": RUNS + 1})
        recovered_s = time.monotonic() - killed
        server.end(signal.SIGTERM)
    assert recovered_s < LEASE_S + 20
    assert (counted(site, "begin", ".first"), journal(site)["begin quick.first"]) == (2 * RUNS + 1, 1)
    print(f"kill -9: the next server was up after {up_s:.2f} s, all had finished after {recovered_s:.2f} s")


def blocks_of_page() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize(
    ("app", "create"),
    [("app", "/orders/A-7"), ("starlette_app", "/orders/A-7"), ("django_app", "/orders/A-7/bill")],
)
def test_application_of_the_page_works_under_a_real_server(
    tmp_path: Path, app: str, create: str, number: signal.Signals
) -> None:
    [block] = [block for block in blocks_of_page() if re.search(rf"^(async def )?{app}( =|\()", block, re.MULTILINE)]
    (tmp_path / "app.py").write_text(block, encoding="utf-8")
    with serving(tmp_path, app=app, path="/orders/none") as server:
        server.call("POST", create)
        until(lambda: server.call("GET", "/orders/A-7")["status"] == "finished")
        assert server.end(number) < 20
    assert statuses(tmp_path) == {"finished": 1}
