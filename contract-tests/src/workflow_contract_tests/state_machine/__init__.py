"""The contract as a state machine: random sequences of verbs on a store and on the model, compared answer by answer.

`script` is the language, `drawing` makes sequences, `playing` compares, `freedoms` says where answers may differ,
`shrinking` makes a failing sequence short, `printing` writes it down, `runner` does all of it.
"""

from __future__ import annotations

from .drawing import Part
from .playing import Player
from .runner import Search, emptied, empty
from .showing import Caller, show

__all__ = ["Caller", "Part", "Player", "Search", "emptied", "empty", "show"]
