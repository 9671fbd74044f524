"""What a caller may do."""

from enum import StrEnum


class Role(StrEnum):
    """A user asks and reads; an operator also may what costs others."""

    USER = "user"
    OPERATOR = "operator"
