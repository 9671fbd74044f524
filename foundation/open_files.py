"""How many files, connections among them, this process may have open. Many systems begin with 1,024 or 256."""

import logging
import sys

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)


def allow_files(wanted: int, setting: str) -> None:
    """Raise the limit to what is wanted, as far as it may be; the log names the setting where that is not enough."""
    if sys.platform == "win32":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < limit:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    if limit < wanted:
        logger.warning("%s needs %d open files, and this process may have %d", setting, wanted, limit)
