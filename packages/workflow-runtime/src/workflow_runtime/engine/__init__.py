"""The engine: a pure core that replays handlers, and one driver that does the I/O."""
