"""The soak: everything happens at once, for a long time."""
