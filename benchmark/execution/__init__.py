"""Running the tasks of a plan: the only room that runs models."""
