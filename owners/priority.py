"""How soon a question is answered."""

from enum import StrEnum


class Priority(StrEnum):
    """How soon a question is answered, against others of its owner and of other owners that wait."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"
