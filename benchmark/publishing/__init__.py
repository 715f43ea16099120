"""The published leaderboard: what may stand on it, and whether what stands there holds."""
