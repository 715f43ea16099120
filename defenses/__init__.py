"""The built-in defenses, one file each."""
