"""Relays that stand before a server, and count, delay or lose what goes through them."""
