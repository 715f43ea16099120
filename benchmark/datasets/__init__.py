"""Data sets: one file each, and the contract."""
