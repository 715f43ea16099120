"""Attacks: one file each, the adapters over other libraries, and the contract."""
