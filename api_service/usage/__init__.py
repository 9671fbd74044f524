"""What owners have spent, as they see it."""
