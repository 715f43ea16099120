"""The write-once store of results, the keys that name them, and the zoo of trained weights."""
