"""What a model is to those who ask."""
