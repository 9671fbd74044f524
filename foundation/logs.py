"""Logging set up once a process: one line an event on standard error, which the process's keeper collects."""

import logging
import sys

from foundation.settings import LogSettings


def configure_logging(service: str, settings: LogSettings) -> None:
    """Send every logger's lines of at least the set level to standard error, marked with the service's name."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {service}[%(process)d] %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    # A line a request or a SQL statement costs more than the request does and can hold what people asked.
    for noisy in ("httpx", "httpcore", "aiohttp.access", "uvicorn.access", "sqlalchemy.engine", "alembic.runtime"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
