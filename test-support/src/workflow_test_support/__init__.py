"""The common parts of this repository's tests and benchmarks. Installed for them alone and never published."""
