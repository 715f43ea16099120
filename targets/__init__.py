"""Classifiers under protection: one file per family, and the contract."""
