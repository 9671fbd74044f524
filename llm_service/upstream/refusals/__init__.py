"""Tells what a model server means when it refuses."""
