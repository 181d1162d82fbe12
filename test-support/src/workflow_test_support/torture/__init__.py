"""Runs under disturbance, each a program: `python -m workflow_test_support.torture.chaos --help`.

What stands in this folder is shared: the work, the workers, who disturbs them, the journal, and the verdicts.
A folder below it is one program, and imports from no other one.
"""
