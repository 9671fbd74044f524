"""What came from elsewhere and cannot be read: skipped and counted, and logged seldom."""

import logging
from collections import Counter

logger = logging.getLogger(__name__)


class Unreadable:
    """Counts what was skipped, by kind. Another release may have written it, or another program."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()

    def skip(self, kind: str, why: BaseException | str) -> None:
        """Skip one. The log has the 1st, 10th, 100th … of each kind, and never what it held."""
        self.skipped[kind] += 1
        count = self.skipped[kind]
        if str(count).strip("0") == "1":
            reason = why if isinstance(why, str) else type(why).__name__
            logger.warning("skipped %s that cannot be read (%s), %d so far", kind, reason, count)
