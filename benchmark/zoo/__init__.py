"""Trained weights: exported from a store, imported, verified, and loaded as plain modules."""
