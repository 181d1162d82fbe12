"""Every distribution has the same shape, and the commands that README gives are those that CI runs."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_ci_runs_the_command_of_the_readme() -> None:
    """The last line of .ci/run stands in README word for word, and so does its twin for the demo."""
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    readme = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()

    assert command.endswith("nox -s tests")
    assert command in readme
    assert command.removesuffix("tests") + "demo" in readme


def test_distribution_has_the_common_files(folder: Path, package: Path) -> None:
    """A reader who knows one distribution finds the way in all of them."""
    expected = [folder / name for name in ("README.md", "CHANGELOG.md", "LICENSE", "tests")]
    expected += [package / name for name in ("py.typed", "_version.py")]

    assert [str(path.relative_to(folder)) for path in expected if not path.exists()] == []
    assert (folder / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_changelog_tells_the_version(folder: Path, package: Path) -> None:
    """The version of the code has a section, or what is not released yet has one."""
    [version] = re.findall(r'__version__ = "(.+)"', (package / "_version.py").read_text(encoding="utf-8"))
    changelog = (folder / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## \[?([^\]\s]+)", changelog, flags=re.MULTILINE)

    assert {version, "Unreleased"} & set(sections)


LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log"}
ESCAPING = {"one_line", "indented"}
DIRECTIVE = re.compile(r"%(?:\((\w+)\))?[#0 +-]*(?:\*|\d+)?(?:\.(?:\*|\d+))?([a-zA-Z%])")


def log_calls(source: str) -> Iterator[ast.Call]:
    for node in ast.walk(ast.parse(source)):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr in LOG_METHODS
            and "log" in ast.unparse(node.func.value).lower()
            and "math" not in ast.unparse(node.func.value)
        ):
            yield node


def unsafe_parts(call: ast.Call) -> list[str]:
    """Name what could bring a line of its own into the log: text that is neither `%r` nor escaped, or no template."""
    assert isinstance(call.func, ast.Attribute)
    template, *values = call.args[1:] if call.func.attr == "log" else call.args
    if not isinstance(template, ast.Constant) or not isinstance(template.value, str):
        return [f"the template {ast.unparse(template)}"]
    letters = [letter for _, letter in DIRECTIVE.findall(template.value) if letter != "%"]
    if len(letters) != len(values):
        return [f"{len(values)} values for {template.value!r}"]
    return [
        ast.unparse(value)
        for letter, value in zip(letters, values, strict=True)
        if letter not in "rdfgeixX"
        and not (isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ESCAPING)
    ]


def test_no_text_from_outside_makes_a_line_of_the_log(package: Path) -> None:
    """Ids go in with %r, any other text through `one_line` or `indented`; loggers come from `get_logger`."""
    found = []
    for path in package.rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        found += [f"{path.name}:{call.lineno} {part}" for call in log_calls(source) for part in unsafe_parts(call)]
        if path.name != "logs.py" and "logging.getLogger" in source:
            found.append(f"{path.name} makes a logger of its own")
    assert found == []


def test_the_check_of_log_calls_finds_what_it_is_for() -> None:
    """Each line here breaks the rule in another way."""
    bad = """
logger.error("run %s", run_id)
logger.warning(f"run {run_id}")
logger.info("run " + run_id)
logger.log(level, "%s failed: %r", error, error)
self._logger.exception("run %r: %s", run_id, str(error))
logger.error("run %r", run_id, error)
"""
    calls = list(log_calls(bad))
    assert len(calls) == 6
    assert all(unsafe_parts(call) for call in calls)
    assert not unsafe_parts(next(log_calls('logger.error("run %r: %s, %d %%", run_id, one_line(error), 3)')))


VAGUE = re.compile(
    r"(Tell|Give|Say|Let|Hear|Hold|Tells|Gives|Says|Lets|Hears|Holds|Keeps|Sees"
    r"|Whether|What|Who|Whoever|Where|When|Why|How|Which|So many|So often|So long)\b"
)


def docstrings(tree: ast.Module) -> Iterator[tuple[str, str]]:
    """Yield the docstrings of a module: its own, those of classes and functions, and those below attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield getattr(node, "name", "the module"), ast.get_docstring(node) or ""
        body = getattr(node, "body", None)
        for before, after in pairwise(body if isinstance(body, list) else []):
            if isinstance(before, ast.Assign | ast.AnnAssign) and isinstance(after, ast.Expr):
                text = getattr(after.value, "value", "")
                yield ast.unparse(before).partition(" ")[0], text if isinstance(text, str) else ""


def vague_docstrings(folder: Path) -> list[str]:
    """Name what has a docstring that begins with one of those words."""
    modules = {module: ast.parse(module.read_text(encoding="utf-8")) for module in folder.rglob("*.py")}
    found = [(module, name, text) for module, tree in modules.items() for name, text in docstrings(tree)]
    return [f"{module.name}: {name}: {text[:30]}" for module, name, text in found if VAGUE.match(text)]


def test_docstring_begins_with_what_something_is_or_does(package: Path) -> None:
    """A noun; or return, raise, set, wake …: the words above say neither what it is, nor what comes back or changes."""
    assert vague_docstrings(package) == []


def test_docstrings_of_what_tests_share_begin_so_too() -> None:
    assert vague_docstrings(ROOT / "test-support/src") == []


def test_the_check_of_docstrings_looks_everywhere() -> None:
    code = '''
"""What it is."""
LIMIT = 3
"""How many."""
class A:
    """Keeps it."""
    name: str
    """Which one."""
    def f(self):
        """Tell."""
'''
    found = {name for name, text in docstrings(ast.parse(code)) if VAGUE.match(text)}
    assert found == {"the module", "LIMIT", "A", "name:", "f"}
