"""Running the tasks of a plan: the only package that runs models."""
