"""What PostgreSQL's absence raises, and what it does not."""

from foundation.database_errors import DATABASE_ERRORS, describe, is_defect, is_wrong_data
from foundation.outages import Outage

__all__ = ["DATABASE_ERRORS", "Outage", "describe", "is_defect", "is_wrong_data"]
