"""Real servers for tests, and the programs that they need."""
