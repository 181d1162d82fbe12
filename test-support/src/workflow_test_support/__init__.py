"""Whatever the tests and benchmarks of this repository share. It is installed for them alone and never published."""
