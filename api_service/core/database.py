"""PostgreSQL as this service uses it: what its absence is to callers, and whether it can be used."""

from api_service.core.errors import UNAVAILABLE, ErrorCode, ServiceError
from foundation.postgresql.database import Database, create_engine
from foundation.postgresql.errors import DATABASE_ERRORS, explain, is_outage
from foundation.reachability import Reachability
from foundation.settings import DatabaseSettings
from schema.migrations import engine_is_up_to_date

_RETRY_AFTER_SECONDS = 2


def open_database(settings: DatabaseSettings) -> Database:
    """PostgreSQL, whose absence ends a request with a ServiceError.

    To ask again is safe when a commit was cut off, because the same question shares the answer of the first.
    """
    lines = "PostgreSQL cannot be used, and requests get 503: %s", "PostgreSQL can be used again"
    return Database(create_engine(settings, "api_service"), Reachability(*lines), unavailable=unavailable)


def unavailable(reason: str = "") -> ServiceError:
    """The error to end a request with meanwhile. ``reason``: for operators."""
    detail = f"{UNAVAILABLE} PostgreSQL: {reason}." if reason else UNAVAILABLE
    return ServiceError(ErrorCode.DATABASE_UNAVAILABLE, detail, retry_after=_RETRY_AFTER_SECONDS)


class DatabaseWatch:
    """Finds out whether PostgreSQL can be used: there, a primary that takes writes, and with the schema."""

    def __init__(self, database: Database, needed_revision: str) -> None:
        self._database = database
        self._needed = needed_revision

    async def problem(self) -> str:
        """Why it cannot be used; empty where it can."""
        try:
            if await engine_is_up_to_date(self._database.autocommit, self._needed):
                return ""
        except DATABASE_ERRORS as error:
            if not is_outage(error):
                raise
            return explain(error)
        return f"its schema is older than revision {self._needed}: run the migrations"

    async def look(self) -> None:
        """Look once. The log has a line when it cannot be used, with the reason, and one when it can be again."""
        if problem := await self.problem():
            self._database.reachability.failed(problem)
        else:
            self._database.reachability.succeeded()
