"""Schedules: when they fire, what becomes of each tick, and what an application says to them."""
