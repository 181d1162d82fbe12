"""Cron expressions in a time zone, and what they do when its clocks change.

The library reads the fields and walks over plain wall-clock times. Which moments those are is decided here: it alone
decides whether a tick is lost or doubled, and zones differ in more than an hour's shift at night.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo

from ..clock import from_ms, to_ms
from ..errors import InvalidArgumentError
from ..ids import plain_text

__all__ = ["Cron"]

_FIELDS = ("minute", "hour", "day-of-month", "month", "day-of-week")
_MAX_LENGTH = 500
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_LAST_YEAR = 9_998
"""Beyond it a zone's offset could lead out of what a `datetime` can hold."""


@dataclass(frozen=True, slots=True)
class Cron:
    """Ticks at the times that five fields describe: minute, hour, day, month, day of week, in a time zone.

    Each field takes numbers, names (`MON`, `jan`), lists (`1,15`), ranges (`9-17`) and steps (`*/5`). A day of the
    month may be `L` (the last one), a day of the week `MON#2` (the second Monday). When both day fields are
    restricted, a day that matches either of them matches.

    When clocks change, an expression at fixed times (neither minute nor hour begins with `*`) keeps its count: a time
    that does not exist is moved to the moment at which the clocks go forward, and a time that comes twice fires the
    first time only. Any other expression follows the clock: it fires whenever the clock shows a matching time.

    Raises:
        InvalidArgumentError: A field is wrong, no day ever matches, or nobody knows the zone.
    """

    expression: str
    timezone: str = "UTC"
    """An IANA name, as `Europe/Warsaw`."""

    def __post_init__(self) -> None:
        _check_expression(self.expression)
        _zone(self.timezone)
        for name in ("expression", "timezone"):
            object.__setattr__(self, name, plain_text(name, getattr(self, name)))
        object.__setattr__(self, "expression", " ".join(self.expression.split()))
        if next(_labels(self.expression, datetime(2000, 1, 1)), None) is None:  # noqa: DTZ001  # a wall-clock time
            raise InvalidArgumentError("expression", f"no day ever matches {self.expression!r}")

    def ticks_after(self, after_ms: int) -> Iterator[int]:
        """Yield the ticks after a moment, in order, each once."""
        after = from_ms(min(after_ms, _LAST_MS))
        minute, hour, *_ = self.expression.split()
        walk = _clock_ticks if "*" in (minute[0], hour[0]) else _fixed_ticks
        for moment in walk(self.expression, _zone(self.timezone), after):
            yield to_ms("moment", moment)


def _fixed_ticks(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """Map each wall-clock time to one moment. Several that do not exist meet at the end of the gap: one tick."""
    for label in _labels(expression, _wall_clock(after, zone)):
        moment = _first_moment(label, zone)
        if moment > after:
            yield moment
            after = moment


def _clock_ticks(expression: str, zone: tzinfo, after: datetime) -> Iterator[datetime]:
    """Walk from one change of the clocks to the next; in between, wall-clock times and moments go in step."""
    label = _wall_clock(after, zone)
    while True:
        change = None
        offset = _offset(zone, after)
        for match in _labels(expression, label):
            moment = match.replace(tzinfo=UTC) - offset
            change = _change(zone, after, moment)
            if change is not None:
                break
            yield moment
            after = moment
        if change is None:
            return
        after = change
        label = _wall_clock(change, zone) - _SECOND


def _labels(expression: str, after: datetime) -> Iterator[datetime]:
    """Yield the matching wall-clock times after one; none when 50 years bring none."""
    from cronsim import CronSim  # noqa: PLC0415  # only programs with a schedule pay for it

    for label in CronSim(expression, after):
        if label.year > _LAST_YEAR:
            return
        yield label


def _first_moment(label: datetime, zone: tzinfo) -> datetime:
    """Return when a wall-clock time is first shown, or the moment at which the clocks jump over it."""
    moment = label.replace(tzinfo=zone).astimezone(UTC)
    if _wall_clock(moment, zone) == label:
        return moment
    before = label.replace(tzinfo=zone, fold=1).astimezone(UTC)
    return _change(zone, before, moment) or moment


def _change(zone: tzinfo, after: datetime, until: datetime) -> datetime | None:
    """Find the first moment after one, up to another, at which the zone's offset is another one."""
    offset = _offset(zone, after)
    low = after
    while low < until:
        high = min(low + _DAY, until)
        if _offset(zone, high) != offset:
            return _bisect(zone, low, high)
        low = high
    return None


def _bisect(zone: tzinfo, low: datetime, high: datetime) -> datetime:
    # Zones change at whole seconds, so both ends are brought to them.
    low = low.replace(microsecond=0)
    offset = _offset(zone, low)
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if _offset(zone, middle) == offset:
            low = middle
        else:
            high = middle
    return low + _SECOND


def _offset(zone: tzinfo, moment: datetime) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _wall_clock(moment: datetime, zone: tzinfo) -> datetime:
    return moment.astimezone(zone).replace(tzinfo=None, fold=0)


def _zone(name: str) -> tzinfo:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # noqa: PLC0415  # only programs with a schedule pay for it

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError, TypeError, AttributeError):
        problem = f"there is no time zone {name!r} on this machine (IANA names, as Europe/Warsaw)"
        raise InvalidArgumentError("timezone", problem) from None


def _check_expression(expression: str) -> None:
    if not isinstance(expression, str) or len(expression) > _MAX_LENGTH:  # type: ignore[redundant-expr]  # callers without a type checker
        raise InvalidArgumentError("expression", f"must be a string of at most {_MAX_LENGTH} characters")
    fields = expression.split()
    if len(fields) != len(_FIELDS):
        raise InvalidArgumentError("expression", f"must have 5 fields ({', '.join(_FIELDS)}), not {len(fields)}")
    for index, (name, text) in enumerate(zip(_FIELDS, fields, strict=True)):
        if not _parses(["*"] * index + [text] + ["*"] * (4 - index)):
            raise InvalidArgumentError("expression", f"the {name} field cannot be {text!r}")
    if not _parses(fields):
        raise InvalidArgumentError("expression", f"day-of-month {fields[2]} never comes in month {fields[3]}")


def _parses(fields: list[str]) -> bool:
    from cronsim import CronSim, CronSimError  # noqa: PLC0415  # only programs with a schedule pay for it

    try:
        CronSim(" ".join(fields), datetime(2000, 1, 1))  # noqa: DTZ001  # a wall-clock time
    except (CronSimError, ValueError):  # ValueError: a number of thousands of digits
        return False
    return True


_LAST_MS = to_ms("moment", datetime(_LAST_YEAR, 12, 31, tzinfo=UTC))
