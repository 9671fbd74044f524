"""What all doors share: asking, following, admission. It knows no door."""
