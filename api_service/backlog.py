"""How many questions wait, so that no more are taken than can be worked off."""

import asyncio
import logging

from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.database import is_unavailable
from api_service.problems import Code, ProblemError
from questions.sweeping import count_due

logger = logging.getLogger(__name__)

_SAMPLE_SECONDS = 1.0
_RETRY_AFTER_SECONDS = 10


class Backlog:
    """Counts due answers once a second. Between two counts the limit can be passed by what one second brings."""

    def __init__(self, engine: AsyncEngine, limit: int) -> None:
        self._engine = engine
        self._limit = limit
        self._due = 0

    def refuse_if_full(self) -> None:
        """Raise a 503 ProblemError once as many answers as the limit wait for a worker."""
        if self._due >= self._limit:
            detail = f"{self._limit:,} questions or more wait for an answer already. Ask again later."
            raise ProblemError(Code.BACKLOG_FULL, detail, headers={"Retry-After": str(_RETRY_AFTER_SECONDS)})

    async def watch(self) -> None:
        """Count until cancelled. While PostgreSQL is absent the last count stands."""
        while True:
            try:
                self._due = await count_due(self._engine, self._limit)
            except Exception as error:
                if not is_unavailable(error):
                    logger.exception("could not count the questions that wait")
            await asyncio.sleep(_SAMPLE_SECONDS)
