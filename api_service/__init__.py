"""The REST edge: takes questions, gives answers, and calls no model itself."""
