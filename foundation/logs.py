"""Logging set up once a process: one line an event on standard error, which the process's keeper collects."""

import logging
import re
import sys
import traceback
from typing import Final

from foundation.correlation import RequestIdFilter
from foundation.settings import LogSettings

# What begins a line, moves a terminal's cursor, turns the order of letters round, or cannot be written as UTF-8:
# control characters, line and paragraph separators, directions of bidirectional text, halves of surrogate pairs.
_UNSAFE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
_INDENT: Final = "    "
TRACE: Final = "trace"
"""The attribute of a record that holds what ``trace_of`` made."""


class SafeFormatter(logging.Formatter):
    """Formats a record so that no text of strangers in it can forge a line.

    Paths, headers, names in certificates and messages of exceptions can hold anything. Characters that are not safe
    become escapes as in Python's strings; a stack trace has its lines, of which each is indented, as no record begins.
    ``trace_of`` makes a stack trace without messages.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging calls it so
        """The line of the event; called by ``format``, as the methods below."""
        line = _escaped(super().formatMessage(record))
        trace = getattr(record, TRACE, "")
        return f"{line}\n{_indented(trace)}" if trace else line

    def formatException(self, ei: object) -> str:  # noqa: N802 - logging calls it so
        """The lines of a stack trace."""
        return _indented(super().formatException(ei))  # type: ignore[arg-type]

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging calls it so
        """The lines of a stack that no exception has."""
        return _indented(super().formatStack(stack_info))


def trace_of(error: BaseException) -> dict[str, str]:
    """``extra`` of a line about a defect: where it and its causes were raised, and their types.

    Messages of exceptions are left out: they can quote what people asked (PostgreSQL's: the whole row).
    """
    parts = []
    next_error: BaseException | None = error
    while next_error is not None:
        parts += [*traceback.format_tb(next_error.__traceback__), f"{type(next_error).__qualname__}\n"]
        next_error = next_error.__cause__ or next_error.__context__
    return {TRACE: "".join(parts).rstrip()}


def _escaped(text: str) -> str:
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _indented(text: str) -> str:
    return "\n".join(_INDENT + _escaped(line) for line in text.split("\n"))


def configure_logging(service: str, settings: LogSettings) -> None:
    """Send every logger's lines of at least the set level to standard error, marked with the service's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        SafeFormatter(f"%(asctime)s {service}[%(process)d] %(levelname)s %(name)s%(request)s: %(message)s")
    )
    handler.addFilter(RequestIdFilter())
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    # A line a request or a SQL statement costs more than the request does and can hold what people asked. The pool has
    # one for each connection that it gives up.
    noisy_ones = ("httpx", "httpcore", "aiohttp.access", "uvicorn.access", "sqlalchemy.engine", "alembic.runtime")
    for noisy in (*noisy_ones, "foundation.postgresql.fair_pool"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
