"""Counting what a store sends to its database, and keeping sweeps and their drives within a limit.

Some hosts allow a program so many database queries each time that they call it. A run whose lease runs out counts as
crashed, so a drive must not come to its last query with something unfinished. Four parts see to that:

- A meter (`query_meter.py`, which stores use too) counts. A store that declares `capabilities.metered` spends its
  queries on the meters of the task that calls it, before it sends anything. What would go over a limit is not sent: the
  limit is a promise, no estimate.
- The plan of a sweep (`sweep_plan.py`) says how much may be claimed, and gives each drive a part of the queries.
- The budget of a drive (`drive_budget.py`) is that part. It says what the drive can still begin, and always keeps
  enough to record the running steps and to hand the run over. A drive without a limit has a budget that allows all.
- The store that such a drive works with (`budgeted_store.py`) lets the drive's own writes use what is kept back.
"""

from ..query_meter import QueryMeter, is_counted, meter_queries, note_rows, queries_left, spend_queries

__all__ = ["QueryMeter", "is_counted", "meter_queries", "note_rows", "queries_left", "spend_queries"]
