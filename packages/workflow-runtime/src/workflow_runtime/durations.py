"""Durations that callers hand over."""

from __future__ import annotations

from datetime import timedelta

from .errors import InvalidArgumentError

__all__ = ["check_duration"]


_FIELDS = (timedelta.days, timedelta.seconds, timedelta.microseconds)


def check_duration(argument: str, duration: object) -> timedelta:
    """Refuse what is no `timedelta`, and say what to write instead; give it as a plain one.

    Raises:
        InvalidArgumentError: A number, for instance: nobody knows of what.
    """
    if type(duration) is timedelta:
        return duration
    if isinstance(duration, timedelta):
        # Subclasses (pendulum's durations, say) may override operators and properties, so neither is used.
        return timedelta(*(field.__get__(duration) for field in _FIELDS))
    kind = type(duration)
    instead = f": write timedelta(seconds={duration!r})" if kind is int or kind is float else ""
    raise InvalidArgumentError(argument, f"must be a timedelta, not {kind.__name__}{instead}")
