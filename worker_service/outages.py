"""Servers that come and go: one log line when one is gone, one when it is back, however many calls notice."""

import logging
from collections.abc import Callable

from foundation.database_errors import DATABASE_ERRORS, describe, is_defect
from foundation.database_errors import explain as explain_database

__all__ = ("DATABASE_ERRORS", "Outage", "describe", "is_defect")

logger = logging.getLogger(__name__)


class Outage:
    """Whether one server answers, as those who call it have seen it last.

    The log lines do not hold an error's message, because PostgreSQL's can quote rows.
    """

    def __init__(
        self, server: str, consequence: str, explain: Callable[[BaseException], str] = explain_database
    ) -> None:
        self._server = server
        self._consequence = consequence
        self._explain = explain
        self.lasts = False

    def begins(self, error: BaseException) -> None:
        """A call failed."""
        if not self.lasts:
            self.lasts = True
            logger.warning("%s does not answer (%s): %s", self._server, self._explain(error), self._consequence)

    def ends(self) -> None:
        """A call succeeded."""
        if self.lasts:
            self.lasts = False
            logger.warning("%s answers again", self._server)
