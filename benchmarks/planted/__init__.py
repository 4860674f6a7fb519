"""Worlds of which it is known what an explanation should say, and every attribution method scored on them."""
