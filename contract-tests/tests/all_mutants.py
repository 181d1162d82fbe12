"""Every mutant: importing the modules of faulty stores puts them on the list."""

from __future__ import annotations

import memory_mutants
import memory_mutants_claims  # noqa: F401
import memory_mutants_disturbances  # noqa: F401
import memory_mutants_engine  # noqa: F401
import memory_mutants_fading  # noqa: F401
import memory_mutants_filters  # noqa: F401
import memory_mutants_forks  # noqa: F401
import memory_mutants_interruptions  # noqa: F401
import memory_mutants_leftovers  # noqa: F401
import memory_mutants_lookalikes  # noqa: F401
import memory_mutants_many  # noqa: F401
import memory_mutants_moments  # noqa: F401
import memory_mutants_optional  # noqa: F401
import memory_mutants_order  # noqa: F401
import memory_mutants_outside  # noqa: F401
import memory_mutants_pairs  # noqa: F401
import memory_mutants_retry  # noqa: F401
import memory_mutants_schedules  # noqa: F401
import memory_mutants_tick_claims  # noqa: F401
import memory_mutants_traces  # noqa: F401
from sql_mutants import SQL_MUTANTS

__all__ = ["ALL_MUTANTS"]

ALL_MUTANTS = [*memory_mutants.MEMORY_MUTANTS, *SQL_MUTANTS]
