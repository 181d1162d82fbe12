"""The meetings of two calls that are worth a race, and those of them that a run of the tests takes."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..settings import SCALE, SEED
from .calls import Call

__all__ = ["Meeting", "all_meetings", "sample_meetings"]

_ALL_FROM_SCALE = 3
_SHARES = {"one wins": 1.0, "one prevents": 0.15, "both act": 0.1, "one acts": 0.01}
"""The part of the meetings of each kind that scale 1 takes. All of them are many: some 3,000 for runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """Two calls at one subject, in a state in which one of them changes something at least."""

    first: Call[Any] = field(repr=False)
    second: Call[Any] = field(repr=False)
    state: str

    def __str__(self) -> str:
        return f"{self.first}, {self.second}: {self.state}"

    @property
    def kind(self) -> str:
        """The way in which the calls affect each other, as far as states tell.

        `one wins`: whichever comes first leaves the other nothing to do. `one prevents`: so does one of them.
        `both act`: neither does. `one acts`: the other has nothing to do here anyway.
        """
        if not (self.state in self.first.next_states and self.state in self.second.next_states):
            return "one acts"
        late = self.first.acts_after(self.second, self.state), self.second.acts_after(self.first, self.state)
        return ("one wins", "one prevents", "both act")[sum(late)]


def all_meetings(calls: Sequence[Call[Any]], states: Sequence[str]) -> tuple[Meeting, ...]:
    """Return every pair of calls, also of one with itself, in every state in which one of them changes something."""
    return tuple(
        Meeting(first=first, second=second, state=state)
        for place, first in enumerate(calls)
        for second in calls[place:]
        for state in states
        if state in first.next_states or state in second.next_states
    )


def sample_meetings(meetings: Sequence[Meeting]) -> dict[str, tuple[Meeting, ...]]:
    """Return the meetings to try at the present scale, by the names of their first calls.

    From a scale of 3 these are all of them. Below, it is a part that the seed chooses, but one of each first call at
    least, and at scale 1 every meeting that only one of the two can win.
    """
    taken: dict[str, tuple[Meeting, ...]] = {}
    for name in dict.fromkeys(meeting.first.name for meeting in meetings):
        own = [meeting for meeting in meetings if meeting.first.name == name]
        kept = [meeting for meeting in own if _is_taken(meeting)]
        taken[name] = tuple(kept or [random.Random(SEED).choice(own)])
    return taken


def _is_taken(meeting: Meeting) -> bool:
    if SCALE >= _ALL_FROM_SCALE:
        return True
    # Each by itself: a new verb does not change which of the others' meetings are tried.
    chosen = random.Random(f"{SEED} {meeting.first.name} {meeting.second.name} {meeting.state}")
    return chosen.random() < _SHARES[meeting.kind] * SCALE
