"""The built-in targets, the classifiers that defenses protect: one file per family."""
