"""The mesh at one moment, as operators look at it: what waits, for whom, and which leases live."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


@dataclass(frozen=True, slots=True)
class QueueSummary:
    """Answers that are not final. ``oldest``: when the first of those that are due was asked for."""

    due: int
    waiting: int
    in_progress: int
    oldest: datetime | None


@dataclass(frozen=True, slots=True)
class OwnerQueueSummary:
    """The answers of one owner that are not final."""

    owner: str | None
    queued: int
    in_progress: int


_QUEUE = text("""
    SELECT count(*) FILTER (WHERE state = 'queued' AND due_at IS NULL) AS due,
        count(*) FILTER (WHERE state = 'queued' AND due_at IS NOT NULL) AS waiting,
        count(*) FILTER (WHERE state = 'in_progress') AS in_progress,
        min(created_at) FILTER (WHERE state = 'queued' AND due_at IS NULL) AS oldest
    FROM answers WHERE state IN ('queued', 'in_progress')
""")
_QUEUE_BY_OWNER = text("""
    SELECT owner, count(*) FILTER (WHERE state = 'queued') AS queued,
        count(*) FILTER (WHERE state = 'in_progress') AS in_progress
    FROM answers WHERE state IN ('queued', 'in_progress')
    GROUP BY owner ORDER BY count(*) DESC, owner LIMIT :most
""")


_LEASES = text("""
    SELECT name, lease_until - clock_timestamp() AS left FROM workers WHERE lease_until > clock_timestamp() ORDER BY id
""")


async def read_leases(engine: AsyncEngine) -> dict[str, timedelta]:
    """How long each worker's lease still lasts, by its host and process id."""
    async with engine.connect() as connection:
        return {row.name: row.left for row in await connection.execute(_LEASES)}


async def read_queue(engine: AsyncEngine) -> QueueSummary:
    """What waits and what is being answered."""
    async with engine.connect() as connection:
        return QueueSummary(**(await connection.execute(_QUEUE)).one()._asdict())


async def read_queue_by_owner(engine: AsyncEngine, most: int) -> list[OwnerQueueSummary]:
    """The ``most`` owners with the longest queues, the longest first."""
    async with engine.connect() as connection:
        return [OwnerQueueSummary(**row._asdict()) for row in await connection.execute(_QUEUE_BY_OWNER, {"most": most})]
