"""Networks of defenses, and training steps that several of them share."""
