"""Workflows as users declare them."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeAlias, TypeVar

from ..errors import ConfigurationError, DuplicateWorkflowError, InvalidArgumentError, UnknownWorkflowError
from ..ids import check_id
from ..isolation import package_of
from ..misuse import name_of_callable
from ..retry import RetryPolicy
from ..store import WorkflowVersion

if TYPE_CHECKING:
    from .context import Context

__all__ = ["Registry", "Workflow", "workflow"]

InputT = TypeVar("InputT")
OutputT = TypeVar("OutputT")
InputT_contra = TypeVar("InputT_contra", contravariant=True)
OutputT_co = TypeVar("OutputT_co", covariant=True)
Handler: TypeAlias = Callable[["Context", InputT], Awaitable[OutputT]]


class Workflow(Generic[InputT_contra, OutputT_co]):
    """A handler with its identity. Made by `@workflow`."""

    def __init__(
        self,
        handler: Handler[InputT_contra, OutputT_co],
        *,
        id: str,
        version: str,
        previous_versions: Sequence[Workflow[Any, Any]],
        retry: RetryPolicy,
    ) -> None:
        if not inspect.iscoroutinefunction(handler):
            name = getattr(handler, "__qualname__", repr(handler))
            raise ConfigurationError(f"the handler of a workflow must be an `async def`; {name} is not")
        id, version = check_id("id", id), check_id("version", version)  # noqa: A001
        for previous in previous_versions:
            if previous.id != id:
                raise ConfigurationError(f"previous version {previous.version!r} of {id!r} has the id {previous.id!r}")
        self.handler = handler
        self.package: str = package_of(handler)
        """Name of the top-level package of the handler's own code."""
        self.id: str = id
        self.version: str = version
        self.previous_versions: tuple[Workflow[Any, Any], ...] = tuple(previous_versions)
        self.retry = retry
        self.__doc__ = handler.__doc__
        self.__name__: str = getattr(handler, "__name__", id)  # a functools.partial has no __name__

    if not TYPE_CHECKING:  # type checkers still refuse a direct call

        def __call__(self, *args: object, **kwargs: object) -> NoReturn:
            """Raise an error that says how a workflow is run.

            Raises:
                ConfigurationError: Always.
            """
            raise ConfigurationError(
                f"a workflow is not called, it is started: await runtime.start_run({self.__name__}, input), and in a "
                f"handler within a step. Its plain function is {self.__name__}.handler"
            )

    def __repr__(self) -> str:
        return f"<Workflow {self.id!r} version {self.version!r}>"


def workflow(
    misplaced: None = None,
    /,
    *,
    id: str | None = None,
    version: str = "1",
    previous_versions: Sequence[Workflow[Any, Any]] = (),
    retry: RetryPolicy | None = None,
) -> Callable[[Handler[InputT, OutputT]], Workflow[InputT, OutputT]]:
    """Declare an `async def handler(ctx, input)` a workflow.

    Args:
        misplaced: Not there: the parentheses of `@workflow()` are needed.
        id: How runs name it, for ever; the function's name when absent.
        version: New runs start on it; a run stays on the version that it started with.
        previous_versions: Workflows of the same id with older versions, for the runs that are still on them.
        retry: How its steps are retried when they do not say; by default 3 attempts, 1 and 2 seconds apart.

    Raises:
        ConfigurationError: The handler is not async, or a previous version has another id.
        InvalidArgumentError: An id or a version that a store could not carry.
    """
    if misplaced is not None:
        raise ConfigurationError("write @workflow() with parentheses, also when there is nothing between them")
    _check_options(previous_versions, retry)

    def declare(handler: Handler[InputT, OutputT]) -> Workflow[InputT, OutputT]:
        return Workflow(
            handler,
            id=id if id is not None else getattr(handler, "__name__", ""),
            version=version,
            previous_versions=previous_versions,
            retry=retry or RetryPolicy(),
        )

    return declare


def _check_options(previous_versions: object, retry: object) -> None:
    if isinstance(previous_versions, Workflow):
        raise ConfigurationError("previous_versions must be a list of workflows: write previous_versions=[old]")
    if retry is not None and not isinstance(retry, RetryPolicy):
        raise InvalidArgumentError("retry", f"must be a RetryPolicy, as RetryPolicy(max_attempts=3), not {retry!r}")


def checked_workflow(what: str, wanted: object) -> Workflow[Any, Any]:
    """Refuse what is no workflow.

    Args:
        what: Who takes one, for the message.
        wanted: What was given.

    Raises:
        ConfigurationError: A function without its decorator, `None`, ….
    """
    if isinstance(wanted, Workflow):
        return wanted
    is_function = inspect.isroutine(wanted)
    instead = "decorate it with @workflow()" if is_function else "give one that @workflow() made, or its id"
    name = f"the function {name_of_callable(wanted)}" if is_function else repr(wanted)
    raise ConfigurationError(f"{what} takes a workflow, and {name} is none: {instead}")


class Registry:
    """The workflows that a runtime can run, by id and version."""

    def __init__(self, workflows: Sequence[Workflow[Any, Any]]) -> None:
        self._current: dict[str, Workflow[Any, Any]] = {}
        self._all: dict[tuple[str, str], Workflow[Any, Any]] = {}
        if isinstance(workflows, Workflow | str):
            raise ConfigurationError("workflows must be a list of workflows: write workflows=[...]")
        for declared in workflows:
            if not isinstance(declared, Workflow):
                raise ConfigurationError(f"{declared!r} is not a workflow; decorate its handler with @workflow()")
            if declared.id in self._current:
                raise DuplicateWorkflowError(declared.id, declared.version)
            self._current[declared.id] = declared
            self._add(declared)

    def _add(self, declared: Workflow[Any, Any]) -> None:
        key = (declared.id, declared.version)
        if self._all.setdefault(key, declared) is not declared:
            raise DuplicateWorkflowError(*key)
        for previous in declared.previous_versions:
            self._add(previous)

    def current(self, wanted: Workflow[Any, Any] | str) -> Workflow[Any, Any]:
        """Find what a new run of this workflow runs.

        Raises:
            UnknownWorkflowError: It is not registered.
        """
        workflow_id = wanted if isinstance(wanted, str) else checked_workflow("starting a run", wanted).id
        found = self._current.get(workflow_id)
        if found is None or (isinstance(wanted, Workflow) and (wanted.id, wanted.version) not in self._all):
            raise UnknownWorkflowError(workflow_id, known=tuple(self._current))
        return found if isinstance(wanted, str) else wanted

    def find(self, workflow_id: str, version: str) -> Workflow[Any, Any]:
        """Find what a run on this version runs.

        Raises:
            UnknownWorkflowError: It is not registered.
        """
        found = self._all.get((workflow_id, version))
        if found is None:
            raise UnknownWorkflowError(workflow_id, version, known=tuple(self._current))
        return found

    def ids(self) -> tuple[str, ...]:
        """List the workflows, for the filter of a claim of ticks."""
        return tuple(self._current)

    def versions(self) -> tuple[WorkflowVersion, ...]:
        """List everything that can run, for the filter of a claim."""
        return tuple(WorkflowVersion(workflow_id=key[0], version=key[1]) for key in self._all)
