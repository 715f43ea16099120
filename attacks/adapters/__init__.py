"""Adapters that run attacks of ART and Foolbox on a surface of this project."""
