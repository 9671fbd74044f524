"""What PostgreSQL's absence raises, and what it does not."""

from foundation.outages import Outage
from foundation.postgresql.errors import DATABASE_ERRORS, describe, is_defect, is_wrong_data

__all__ = ["DATABASE_ERRORS", "Outage", "describe", "is_defect", "is_wrong_data"]
