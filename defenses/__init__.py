"""Purifiers: one file each, and the contract."""
