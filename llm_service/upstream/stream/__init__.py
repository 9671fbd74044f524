"""Reads the stream of a chat completion, whatever shape a model server gives it."""
