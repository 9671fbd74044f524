"""How many answers an owner may have that are not final: exact, however many processes ask at once.

Only for owners with such a limit. Their questions wait for each other, by a lock on the owner's name that is held until
the commit; a question that shares an answer is not counted.
"""

import hashlib
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection


@dataclass(frozen=True, slots=True)
class ConcurrencyLimit:
    """Most answers of an owner that wait, and most that wait or are written. 0: no limit."""

    queued: int = 0
    live: int = 0

    def __bool__(self) -> bool:
        return bool(self.queued or self.live)


class ConcurrencyLimitError(Exception):
    """The owner has as many answers as it may. ``what``: ``queued`` or ``live``."""

    def __init__(self, what: str, count: int, limit: int) -> None:
        super().__init__(what)
        self.what = what
        self.count = count
        self.limit = limit


class ConcurrencyLimitBusyError(Exception):
    """Another question of the owner is being counted. End the transaction, and try again a moment later."""


# Not waited for: whoever waits in a statement holds a connection of a pool that all owners share.
_LOCK = text("SELECT pg_try_advisory_xact_lock(:lock)")
# A statement of its own, so that it sees what was committed while the lock was awaited.
_COUNT = text("""
    SELECT count(*) AS live, count(*) FILTER (WHERE state = 'queued') AS queued FROM (
        SELECT state FROM answers WHERE owner = :owner AND state IN ('queued', 'in_progress') ORDER BY priority, turn
    ) AS live
""")


async def refusal(connection: AsyncConnection, owner: str, limit: ConcurrencyLimit) -> ConcurrencyLimitError | None:
    """Why the owner may have no further answer; None: it may, and until the transaction ends it is the only one.

    Raises ConcurrencyLimitBusyError.
    """
    lock = int.from_bytes(hashlib.sha256(b"askmesh room " + owner.encode()).digest()[:8], "big", signed=True)
    if not (await connection.execute(_LOCK, {"lock": lock})).scalar_one():
        raise ConcurrencyLimitBusyError
    count = (await connection.execute(_COUNT, {"owner": owner})).one()
    if limit.live and count.live >= limit.live:
        return ConcurrencyLimitError("live", count.live, limit.live)
    if limit.queued and count.queued >= limit.queued:
        return ConcurrencyLimitError("queued", count.queued, limit.queued)
    return None
