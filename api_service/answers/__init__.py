"""Asking a question, reading its answer, cancelling it."""
