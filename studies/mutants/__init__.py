"""`make mutants`: changes one line of the harness at a time, and sees whether a test fails."""
