"""How much askmesh adds to the model server, and what it costs: ``python -m benchmarks``."""
