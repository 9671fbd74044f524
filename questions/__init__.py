"""What a question is and how it lives: states, tables, claims, keys, hints.

Both api_service and worker_service stand on this package; neither knows the other.
"""
