"""The command `bench`: the commands, and what they print."""
