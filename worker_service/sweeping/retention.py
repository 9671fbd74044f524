"""Removing what is older than the operators want to keep."""

import asyncio
import logging
import random
from datetime import timedelta
from typing import Final

from foundation.postgresql.database import Database
from questions.operating import purge

logger = logging.getLogger(__name__)

_ROUND_SECONDS: Final = 3_600.0


async def keep_retention(database: Database, days: float) -> None:
    """Purge once an hour, for ever; several workers that do so at once do no harm."""
    while True:
        # The first round waits, too: a worker that is restarted often does not purge each time.
        await asyncio.sleep(_ROUND_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - spreads load
        with database.attempt():
            removed = await purge(database.engine, timedelta(days=days))
            logger.info("removed %d questions that ended more than %g days ago", removed, days)
