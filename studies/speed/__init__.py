"""`make speed`: times, ratios and memory."""
