"""From an empty folder to a certificate: the skeleton of a store is sound, and a store grows out of it."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
from workflow_contract_tests import HarnessError, command
from workflow_contract_tests.skeleton import write_skeleton
from workflow_contract_tests.stacks import VERBS


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("skeleton")
    write_skeleton("my_store", folder)
    return folder


def _fill(folder: Path) -> None:
    """Have each verb ask a memory store, and each handle share its data."""
    path = folder / "src/my_store/store.py"
    text = path.read_text()
    for verb in ast.walk(ast.parse(text)):
        if isinstance(verb, ast.AsyncFunctionDef):
            arguments = ", ".join(f"{argument.arg}={argument.arg}" for argument in verb.args.kwonlyargs)
            call = f"return await self._memory.{verb.name}({arguments})"
            text = text.replace("raise NotImplementedError", call, 1)
    text = text.replace(
        "    capabilities =",
        "    def __init__(self, data: InMemoryData) -> None:\n"
        "        self._memory = InMemoryWorkflowStore(data=data)\n\n"
        "    capabilities =",
    )
    path.write_text(
        text.replace(
            "\n\nclass", "\nfrom workflow_store_memory import InMemoryData, InMemoryWorkflowStore\n\n\nclass", 1
        )
    )
    harness = folder / "my_store_harness.py"
    harness.write_text(
        harness.read_text()
        .replace("    return StoreHarness(", "    data = InMemoryData()\n    return StoreHarness(")
        .replace("MyStore(),", "MyStore(data),")
        .replace("import StoreHarness\n", "import StoreHarness\nfrom workflow_store_memory import InMemoryData\n")
    )


def test_skeleton_has_every_verb_that_is_not_optional(folder: Path) -> None:
    tree = ast.parse((folder / "src/my_store/store.py").read_text())
    written = {node.name for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef)}
    optional = {"subscribe_events", "open_heartbeats", "listen", "append_in_transaction"}
    properties = {"live", "capabilities"}
    assert written == VERBS - optional - properties


@pytest.mark.parametrize("verb", ["subscribe_events", "open_heartbeats", "listen", "append_in_transaction"])
def test_skeleton_names_optional_verbs_in_comments(folder: Path, verb: str) -> None:
    lines = (folder / "src/my_store/store.py").read_text().splitlines()
    assert any(line.startswith("    # ") and f"def {verb}(" in line for line in lines)
    assert max(map(len, lines)) <= 120


@pytest.mark.timeout(400)
@pytest.mark.parametrize("tool", [("ruff", "check"), ("ruff", "format", "--check"), ("mypy", "--strict")], ids=" ".join)
def test_skeleton_is_clean(folder: Path, tool: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    if importlib.util.find_spec(tool[0]) is None:
        pytest.skip(f"{tool[0]} is not installed")
    monkeypatch.setenv("MYPYPATH", str(folder / "src"))
    paths = ["my_store_harness.py", "src", "tests"]
    done = subprocess.run(
        [sys.executable, "-m", *tool, *paths], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.timeout(400)
def test_skeleton_is_not_written_and_its_store_is_certified(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert command.main(["new", "my_store"]) == 0
    folder = tmp_path / "my_store"
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", ":".join([str(folder / "src"), *(path for path in sys.path if path)]))
    assert command.main(["my_store_harness:harness"]) == 1
    assert "core: not written\nschedules: not written\n" in capsys.readouterr().out

    _fill(folder)
    assert command.main(["my_store_harness:harness", "--json", "report.json", "--badge", "badge.svg"]) == 0
    assert "core: certified" in capsys.readouterr().out
    assert command.main(["verify", "report.json"]) == 0
    report = json.loads((folder / "report.json").read_text())
    assert {level: verdict["status"] for level, verdict in report["levels"].items()} == {
        "core": "certified",
        "schedules": "certified",
        "live": "not declared",
        "transactional": "not declared",
        "durable": "not declared",
    }
    assert "core, schedules" in (folder / "badge.svg").read_text()


def test_skeleton_overwrites_nothing(folder: Path) -> None:
    with pytest.raises(HarnessError, match="is not empty"):
        write_skeleton("my_store", folder)


@pytest.mark.parametrize("name", ["My Store", "1store", "../store", ""])
def test_skeleton_needs_the_name_of_a_package(tmp_path: Path, name: str) -> None:
    with pytest.raises(HarnessError, match="no name of a package"):
        write_skeleton(name, tmp_path / "new")
