"""Logs what is wrong with the model server: a line when it begins, a line when it ends, and none for each question."""

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from llm_service.errors import LlmError, Reason

logger = logging.getLogger(__name__)

GENERATION: Final = "generation"
LIST: Final = "list of models"

# The model server is to blame, and not a request. An overload is everyday and passes.
_OUTAGES: Final = frozenset(
    {
        Reason.MODEL_SERVER_UNAVAILABLE,
        Reason.MODEL_SERVER_DENIED,
        Reason.MODEL_SERVER_INVALID,
        Reason.GENERATION_INTERRUPTED,
    }
)
_REFUSALS: Final = frozenset({Reason.REQUEST_REFUSED, Reason.CONTEXT_TOO_LONG})
# The same refusal is said again after so long.
_REFUSAL_SECONDS: Final = 3600.0
# At most so many lines a minute: a server that comes and goes, as one of two behind a proxy, could fill the log.
_MOST_LINES: Final = 10
_LINES_SECONDS: Final = 60.0
_MOST_REMEMBERED: Final = 64


class OutageLog:
    """Logs what changes. An ``LlmError.why`` holds no text of a question, so it may stand there."""

    def __init__(self, host: str, clock: Callable[[], float] = time.monotonic) -> None:
        """``host``: what the model server is called in the log."""
        self._host = host
        self._clock = clock
        self._wrong: dict[str, dict[str, float]] = {}
        self._refused: dict[str, float] = {}
        self._lines: deque[float] = deque(maxlen=_MOST_LINES)

    def failed(self, call: str, error: LlmError) -> None:
        """A call of this kind failed."""
        now = self._clock()
        if error.reason in _OUTAGES:
            reasons = self._wrong.setdefault(call, {})
            new = error.why not in {why for known in self._wrong.values() for why in known}
            if error.why in reasons or len(reasons) < _MOST_REMEMBERED:
                reasons[error.why] = now
            if new and len(reasons) <= _MOST_REMEMBERED:
                self._say(now, "the model server at %s cannot be used: %s", _short(error.why))
        elif error.reason in _REFUSALS and now - self._refused.get(error.why, -_REFUSAL_SECONDS) >= _REFUSAL_SECONDS:
            if len(self._refused) >= _MOST_REMEMBERED:
                self._refused.clear()
            self._refused[error.why] = now
            self._say(now, "the model server at %s refuses a request: %s", _short(error.why))

    def succeeded(self, call: str, began: float) -> None:
        """A call of this kind that began then, on the log's clock, ended well: what failed before is over.

        A generation ends the failures of all kinds, because it needs the list of models, too.
        """
        was_wrong = any(self._wrong.values())
        for kind, reasons in self._wrong.items():
            if call in (kind, GENERATION):
                for why in [why for why, last in reasons.items() if last <= began]:
                    del reasons[why]
        if was_wrong and not any(self._wrong.values()):
            self._say(self._clock(), "the model server at %s answers again")

    def _say(self, now: float, line: str, *more: str) -> None:
        if len(self._lines) == _MOST_LINES and now - self._lines[0] < _LINES_SECONDS:
            return
        self._lines.append(now)
        logger.warning(line, self._host, *more)


def _short(why: str) -> str:
    return why.replace("the model server ", "it ", 1)
