"""Calls that meet and calls that are cut short, and the judges of both.

Read `calls` first: a call is a verb with arguments that work, on a subject in a state. `run_calls` and `schedule_calls`
are the tables of all of them, `run_states` and `schedule_states` make their subjects. `orders` judges calls at once by
what they do one after the other; `meetings` says which calls meet. `histories` and `linearizability` judge long random
histories, by the small machine in `run_model`. `interruptions` cuts calls short.
"""
