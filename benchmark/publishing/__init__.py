"""The published leaderboard: rows checked, published, verified and reproduced."""
