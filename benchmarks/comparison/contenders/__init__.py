"""What is measured: a program for each system, which runs in that system's environment.

These modules import nothing of ours but each other and the standard library, besides the system itself.
"""
