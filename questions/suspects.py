"""When an answer may be what kills workers or engines: it is then tried alone, and at last set aside."""

SUSPECT_FROM = 3
"""Losses, or interruptions, from which on an answer may be what kills workers or engines: it is then tried alone."""
POISON_FROM = 5
"""Losses, or interruptions, at which it is set aside as failed."""
SUSPECT = f"(losses >= {SUSPECT_FROM} OR interruptions >= {SUSPECT_FROM})"
"""SQL: a suspect. One that waits is never due, so that no ordinary claim comes across it; trials find it."""
