"""Checks that a defense plugin keeps its contract (`bench check`, pytest)."""
