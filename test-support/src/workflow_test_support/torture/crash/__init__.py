"""The crash runs: a process is killed around every call of its store."""
