"""From stored outcomes to records, flags and leaderboard rows."""
