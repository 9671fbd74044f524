"""Which request the running task is about: for the lines that it logs and the rows that it writes."""

import logging
from contextvars import ContextVar

_request_id: ContextVar[str] = ContextVar("request_id", default="")


def set_request_id(request_id: str | None) -> None:
    """From here on this task, and those that it starts, are about this request; None: about none that is known."""
    _request_id.set(request_id or "")


def current_request_id() -> str | None:
    """The request that this task is about."""
    return _request_id.get() or None


class RequestIdFilter(logging.Filter):
    """Gives each record ``request``: the request's id in words, or nothing."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass."""
        request_id = _request_id.get()
        record.request = f" request {request_id}" if request_id else ""
        return True
