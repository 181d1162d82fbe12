"""Assertions of the cases that show both values, without a test framework.

While the suites are imported their comparisons are rewritten: each side is evaluated once, as ever, and both are shown
when they do not compare. pytest does more of the same; where it has rewritten the suites, this leaves them alone.
"""

from __future__ import annotations

import ast
import contextlib
import importlib.machinery
import importlib.util
import marshal
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType

__all__ = ["both_sides", "readable_assertions"]

_LONGEST = 600
_LEFT, _RIGHT, _EXPLAIN = "@left", "@right", "@explain"
"""Names that no source can have."""


def both_sides(left: object, right: object, message: object = None) -> str:
    """Return the message of a comparison that failed."""
    said = "it does not hold:" if message is None else f"{message}"
    return f"{said}\n    left  = {shortened(left)}\n    right = {shortened(right)}"


def shortened(value: object) -> str:
    """Return the text of a value, whatever it is."""
    try:
        text = repr(value)
    except Exception as error:  # noqa: BLE001  # a value of the store may refuse even that
        text = f"<{type(value).__name__} whose repr raises {type(error).__name__}>"
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}… ({len(text)} characters)"


@contextlib.contextmanager
def readable_assertions(package: str, *names: str) -> Iterator[None]:
    """Rewrite the comparisons of modules of a package that are imported in the block.

    Args:
        package: Its name.
        names: The modules and packages in it that have assertions.
    """
    finder = _Finder(tuple(f"{package}.{name}" for name in names))
    if any(type(other).__name__ == "AssertionRewritingHook" for other in sys.meta_path):
        yield
        return
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _Finder:
    """A finder of modules whose assertions are rewritten."""

    def __init__(self, prefixes: tuple[str, ...]) -> None:
        self._prefixes = prefixes

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not any(name == prefix or name.startswith(f"{prefix}.") for prefix in self._prefixes):
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, importlib.machinery.SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(importlib.machinery.SourceFileLoader):
    """A loader of rewritten modules. It caches them under a name of their own, beside what Python caches."""

    def get_code(self, fullname: str) -> CodeType:
        cached = Path(importlib.util.cache_from_source(self.path, optimization="readable"))
        stamp = f"{_stamp(self.path)} {_stamp(__file__)}\n".encode()
        with contextlib.suppress(OSError, EOFError, ValueError, TypeError):
            known = cached.read_bytes()
            if known.startswith(stamp):
                code: CodeType = marshal.loads(known[len(stamp) :])  # noqa: S302  # as Python does with its own
                return code
        code = self._compile()
        if not sys.dont_write_bytecode:
            with contextlib.suppress(OSError):
                _replace(cached, stamp + marshal.dumps(code))
        return code

    def _compile(self) -> CodeType:
        tree = ast.parse(self.get_data(self.path), filename=self.path)
        rewritten = ast.fix_missing_locations(_Rewriter().rewrite(tree))
        code: CodeType = compile(rewritten, self.path, "exec", dont_inherit=True)
        return code


def _stamp(path: str) -> str:
    facts = Path(path).stat()
    return f"{facts.st_mtime_ns}-{facts.st_size}"


def _replace(path: Path, data: bytes) -> None:
    """Write a file in one step, as another process may read it meanwhile."""
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(data)
    draft.replace(path)


class _Rewriter(ast.NodeTransformer):
    """A rewriting of `assert a == b` into `left = a; right = b; assert left == right, explain(left, right)`."""

    def rewrite(self, tree: ast.Module) -> ast.Module:
        self.visit(tree)
        place = next(
            (number for number, node in enumerate(tree.body) if not isinstance(node, ast.Expr | ast.ImportFrom)),
            len(tree.body),
        )
        alias = ast.alias(name=both_sides.__name__, asname=_EXPLAIN)
        tree.body.insert(place, ast.ImportFrom(module=__name__, names=[alias], level=0))
        return tree

    def visit_Assert(self, node: ast.Assert) -> ast.Assert | list[ast.stmt]:  # ast's name
        test = node.test
        if not isinstance(test, ast.Compare) or len(test.ops) != 1:
            return node
        left, right = (ast.Name(id=name, ctx=ast.Load()) for name in (_LEFT, _RIGHT))
        sides = [left, right] if node.msg is None else [left, right, node.msg]
        explained = ast.Call(func=ast.Name(id=_EXPLAIN, ctx=ast.Load()), args=[*sides], keywords=[])
        checked = ast.Assert(test=ast.Compare(left=left, ops=test.ops, comparators=[right]), msg=explained)
        statements = [_assign(_LEFT, test.left), _assign(_RIGHT, test.comparators[0]), checked]
        return [ast.copy_location(statement, node) for statement in statements]


def _assign(name: str, value: ast.expr) -> ast.stmt:
    return ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=value)
