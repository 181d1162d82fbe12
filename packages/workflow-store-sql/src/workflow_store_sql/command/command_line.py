"""The command line, by click. Its functions import click, because a package without its extra has none."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeAlias

from workflow_migrations import Phase
from workflow_runtime.store import ConfigurationError, InvalidArgumentError, WorkflowError, one_line

from .adapter import Adapter, Names, Patience
from .look import Look
from .progress import shown_progress
from .repairs import Repair, decide_checksum, decide_environment, decide_record
from .reports import NOT_DONE, NOT_LOOKED, Report
from .work import NotLookedError, Task

if TYPE_CHECKING:
    import click

__all__ = ["run"]

Values: TypeAlias = Mapping[str, Any]
Work: TypeAlias = Callable[[Task, Values], "Report | Coroutine[Any, Any, Report]"]

_LONGEST_WAIT = timedelta(days=1)
"""The longest that `--wait` waits."""
_EPILOG = (
    "Exit status: 0 fine; 1 the tables do not fit, or something was not done; 2 the call cannot work, or the database "
    "cannot be reached."
)
_SECRET = re.compile(r"://|@|password|token", re.IGNORECASE)
"""Words of a command line that may hold a password, when somebody puts them in a wrong place."""


def run(adapter: Adapter, arguments: Sequence[str]) -> int:
    """Run the command and return its exit status."""
    import click  # noqa: PLC0415  # as the module says

    try:
        status: int | None = make_group(adapter).main(
            args=list(arguments), prog_name=adapter.distribution, standalone_mode=False
        )
    except click.Abort:
        click.echo("stopped: nothing more is done", err=True)
        return NOT_DONE
    except click.ClickException as error:
        usage = error.ctx.get_usage() + "\n" if isinstance(error, click.UsageError) and error.ctx else ""
        click.echo(usage + without_secrets(error.format_message(), arguments), err=True)
        return NOT_LOOKED
    return status or 0


def without_secrets(message: str, arguments: Sequence[str]) -> str:
    """Return a message about a command line without the words that may hold a password."""
    words = {word for given in arguments for word in (given, given.partition("=")[2]) if _SECRET.search(word)}
    for word in sorted(words, key=len, reverse=True):
        for form in (word, repr(word)[1:-1]):
            message = message.replace(form, "(not shown)")
    return message


def make_group(adapter: Adapter) -> click.Group:
    """Return the command of a store."""
    import click  # noqa: PLC0415  # as the module says

    about = f"Look after the tables of {adapter.distribution}."
    group = click.Group(adapter.distribution, help=about, epilog=_EPILOG, no_args_is_help=False)
    click.version_option(adapter.version, prog_name=adapter.distribution)(group)
    for command in (
        _command(adapter, "status", "Show what is recorded and missing, and if this release can run.", _status),
        _command(adapter, "plan", "Show what `migrate` would apply, in order.", _plan, _plan_options()),
        _command(adapter, "migrate", "Create or upgrade the tables.", _migrate, _migrate_options()),
        _command(adapter, "check", "Fail unless the tables fit this release.", _check, _check_options()),
        _command(adapter, "repair", "Correct what is recorded; tables stay as they are.", _repair, _repair_options()),
        _command(adapter, "sql", "Print the SQL of the migrations.", _sql, _sql_options(adapter), connects=False),
        _command(adapter, "path", "Print the folder of the .sql files.", _path, connects=False),
    ):
        group.add_command(command)
    return group


def _command(
    adapter: Adapter,
    name: str,
    about: str,
    work: Work,
    options: Sequence[click.Parameter] = (),
    *,
    connects: bool = True,
) -> click.Command:
    import click  # noqa: PLC0415  # as the module says

    def call(**values: Any) -> int:
        return _answer(adapter, name, work, values)

    json_option = click.Option(["--json", "as_json"], is_flag=True, help="Answer as JSON.")
    connection = _connection_options(adapter) if connects else []
    params = [*options, *connection, *_name_options(adapter), json_option]
    return click.Command(name, params=params, callback=call, help=about, epilog=_EPILOG)


def _answer(adapter: Adapter, name: str, work: Work, values: Values) -> int:
    """Do the work and print its answer."""
    import click  # noqa: PLC0415  # as the module says

    with shown_progress(adapter.package, "workflow_store_sql"):
        report = _report(adapter, work, values)
    if values["as_json"]:
        click.echo(report.as_json(name))
    elif report.text:
        click.echo(report.text)
    if report.problem is not None:
        click.echo(report.problem, err=True)
    return report.exit_status


def _report(adapter: Adapter, work: Work, values: Values) -> Report:
    try:
        outcome = work(_task(adapter, values), values)
        return outcome if isinstance(outcome, Report) else asyncio.run(outcome)
    except NotLookedError as unseen:
        return Report.of_error(unseen.error, NOT_LOOKED)
    except (ConfigurationError, InvalidArgumentError) as error:
        return Report.of_error(error, NOT_LOOKED)
    except WorkflowError as error:
        return Report.of_error(error, NOT_DONE)


def _task(adapter: Adapter, values: Values) -> Task:
    return Task(
        adapter=adapter,
        names=Names(schema=values.get("schema"), tables=_tables(values["table"])),
        options={option.name: values.get(option.name) for option in adapter.options},
        patience=_patience(values),
    )


def _tables(given: Sequence[str]) -> Mapping[str, str]:
    tables = {}
    for one in given:
        key, equals, name = one.partition("=")
        if not equals:
            raise ConfigurationError(f"--table {one_line(one)!r} is not of the form runs=app_runs")
        tables[key] = name
    return tables


def _patience(values: Values) -> Patience:
    wait, lock, migration = values.get("wait", False), values.get("lock_timeout"), values.get("migration_timeout")
    if wait and lock is not None:
        raise ConfigurationError("--wait waits as long as it takes: leave out --lock-timeout")
    longest = _LONGEST_WAIT if wait else None
    return Patience(lock_timeout=_seconds(lock) or longest, migration_timeout=_seconds(migration) or longest, wait=wait)


def _seconds(value: float | None) -> timedelta | None:
    if value is None:
        return None
    if not value > 0:  # what is no number passes a range
        raise ConfigurationError(f"{value} is no time")
    return timedelta(seconds=value)


def _status(task: Task, values: Values) -> Coroutine[Any, Any, Report]:
    del values
    return task.status()


def _plan(task: Task, values: Values) -> Coroutine[Any, Any, Report]:
    return task.plan(values["phase"], exit_code=values["exit_code"])


def _check(task: Task, values: Values) -> Coroutine[Any, Any, Report]:
    return task.check(deep=values["deep"])


def _migrate(task: Task, values: Values) -> Coroutine[Any, Any, Report]:
    phase: Phase = values["phase"]
    return task.plan(phase, exit_code=False) if values["dry_run"] else task.migrate(phase)


def _sql(task: Task, values: Values) -> Report:
    if values.get("partitions") is not None:
        if any(values[name] is not None for name in ("ids", "from_id", "to_id")):
            raise ConfigurationError("--partition-events is no migration: leave out --ids, --from and --to")
        return task.partition_script(int(values["partitions"]), transaction=values["transaction"])
    ids = None if values["ids"] is None else [one.strip() for one in values["ids"].split(",")]
    return task.script(ids, values["from_id"], values["to_id"], transaction=values["transaction"])


def _path(task: Task, values: Values) -> Report:
    del values
    return task.path()


def _repair(task: Task, values: Values) -> Coroutine[Any, Any, Report]:
    return task.repair(_decision(values), _confirmation(yes=values["yes"]))


def _decision(values: Values) -> Callable[[Look], Repair | None]:
    record, checksum, environment = values["record"], values["checksum"], values["environment"]
    chosen: list[Callable[[Look], Repair | None]] = []
    if record is not None:
        chosen.append(lambda look: decide_record(look, record))
    if checksum is not None:
        chosen.append(lambda look: decide_checksum(look, checksum))
    if environment is not None:
        chosen.append(lambda look: decide_environment(look, environment))
    if values["no_environment"]:
        chosen.append(lambda look: decide_environment(look, None))
    if len(chosen) != 1:
        raise ConfigurationError("give one of --record, --checksum, --environment and --no-environment")
    return chosen[0]


def _confirmation(*, yes: bool) -> Callable[[Repair], None]:
    """Return what shows a repair, and asks whether to do it."""
    import click  # noqa: PLC0415  # as the module says

    def confirm(repair: Repair) -> None:
        click.echo(one_line(repair.description), err=True)
        if repair.warning is not None:
            click.echo(f"warning: {repair.warning}", err=True)
        if not yes:
            click.confirm("Write that?", abort=True, err=True)

    return confirm


def _connection_options(adapter: Adapter) -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    return [
        click.Option(
            [f"--{option.name}"],
            metavar=option.metavar,
            envvar=list(option.variables),
            help=f"{option.help}" + (f" By default ${option.variables[0]}." if option.variables else ""),
        )
        for option in adapter.options
    ]


def _name_options(adapter: Adapter) -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    table = click.Option(
        ["--table"], multiple=True, metavar="KEY=NAME", help="A table's own name: runs=app_runs. Repeatable."
    )
    schema = click.Option(["--schema"], metavar="NAME", help="Schema of the tables. By default search_path decides.")
    return [schema, table] if adapter.has_schemas else [table]


def _phase_option() -> click.Parameter:
    import click  # noqa: PLC0415  # as the module says

    return click.Option(
        ["--phase"],
        type=click.Choice(["expand", "online", "contract"]),
        default="online",
        show_default=True,
        help=(
            "The last phase: expand adds what this release needs, online builds indexes too, contract takes away what "
            "earlier releases need. New tables get everything."
        ),
    )


def _plan_options() -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    exit_code = click.Option(["--exit-code"], is_flag=True, help="Exit with 1 if anything is to be applied.")
    return [_phase_option(), exit_code]


def _check_options() -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    return [click.Option(["--deep"], is_flag=True, help="Compare each column, index and constraint too.")]


def _migrate_options() -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    seconds: Any = {"type": click.FloatRange(min=0, min_open=True, max=_LONGEST_WAIT.total_seconds())}
    return [
        _phase_option(),
        click.Option(["--dry-run"], is_flag=True, help="Show the plan and change nothing."),
        click.Option(
            ["--wait"],
            is_flag=True,
            help="Wait up to a day for others that migrate, use the tables, or build an index.",
        ),
        click.Option(
            ["--lock-timeout"], metavar="SECONDS", help="How long to wait for others at each migration.", **seconds
        ),
        click.Option(["--migration-timeout"], metavar="SECONDS", help="How long one statement may take.", **seconds),
    ]


def _sql_options(adapter: Adapter) -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    partitions = click.Option(
        ["--partition-events", "partitions"],
        type=click.Choice([str(count) for count in adapter.partitioning.counts] if adapter.partitioning else []),
        metavar="COUNT",
        help="In place of migrations: what moves the log into so many partitions (2, 4, 8 ... 256), or into 1 table.",
    )
    return [
        *([partitions] if adapter.partitioning else []),
        click.Option(["--ids"], metavar="ID,ID", help="Only these migrations."),
        click.Option(["--from", "from_id"], metavar="ID", help="Only this migration and later ones."),
        click.Option(["--to", "to_id"], metavar="ID", help="Only this migration and earlier ones."),
        click.Option(
            ["--transaction/--no-transaction"],
            default=adapter.in_transaction,
            show_default=True,
            help="Whether each migration has a BEGIN and a COMMIT.",
        ),
    ]


def _repair_options() -> list[click.Parameter]:
    import click  # noqa: PLC0415  # as the module says

    return [
        click.Option(["--record"], metavar="ID", help="Record a migration whose effects are all there."),
        click.Option(["--checksum"], metavar="ID", help="Record the checksum of a migration."),
        click.Option(["--environment"], metavar="NAME", help="Mark the tables with an environment."),
        click.Option(["--no-environment"], is_flag=True, help="Take the mark of an environment away."),
        click.Option(["--yes"], is_flag=True, help="Do not ask."),
    ]
