"""A study of the verdicts of the harness on purifiers that hide their weakness, and on honest ones."""
