"""The leases of workers. What a worker holds is given to others once its lease has run out."""

from collections.abc import Collection

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from questions.suspects import SUSPECT

_REGISTER = text("""
    INSERT INTO workers (name, lease_until)
    VALUES (:name, clock_timestamp() + make_interval(secs => :lease_seconds)) RETURNING id
""")
# An expired lease is never renewed: its answers may be somebody else's by now.
_RENEW = text("""
    UPDATE workers SET lease_until = clock_timestamp() + make_interval(secs => :lease_seconds)
    WHERE id = :worker_id AND lease_until > clock_timestamp() RETURNING id
""")
_RETIRE = text("UPDATE workers SET lease_until = clock_timestamp() WHERE id = :worker_id")
_HELD = text("SELECT token FROM answers WHERE holder = :worker_id")
_HAND_BACK_ALL_BUT = text(f"""
    UPDATE answers SET state = 'queued', holder = NULL, due_at = CASE WHEN {SUSPECT} THEN 'infinity'::timestamptz END
    WHERE holder = :worker_id AND token <> ALL(CAST(:tokens AS bigint[]))
""")


async def register_worker(engine: AsyncEngine, name: str, lease_seconds: float) -> int:
    """Start a lease for this process and return its worker id."""
    async with engine.begin() as connection:
        parameters = {"name": name, "lease_seconds": lease_seconds}
        worker_id: int = (await connection.execute(_REGISTER, parameters)).scalar_one()
        return worker_id


async def renew_lease(engine: AsyncEngine, worker_id: int, lease_seconds: float) -> frozenset[int] | None:
    """Renew the lease and return the tokens of the claims that are still this worker's; None if it had run out."""
    async with engine.begin() as connection:
        parameters = {"worker_id": worker_id, "lease_seconds": lease_seconds}
        if (await connection.execute(_RENEW, parameters)).one_or_none() is None:
            return None
        return frozenset((await connection.execute(_HELD, {"worker_id": worker_id})).scalars())


async def retire_worker(engine: AsyncEngine, worker_id: int) -> None:
    """End the lease now: whatever the worker still holds is given to others at once."""
    async with engine.begin() as connection:
        await connection.execute(_RETIRE, {"worker_id": worker_id})


async def hand_back_all_but(engine: AsyncEngine, worker_id: int, tokens: Collection[int]) -> None:
    """Queue again, due at once, what the worker holds under other tokens than these. Counts as nothing.

    With no tokens: all that a worker which has stopped still holds. With those that it knows: claims that were
    committed although the worker never learned so, and that nobody would answer while its lease lasts.
    """
    async with engine.begin() as connection:
        await connection.execute(_HAND_BACK_ALL_BUT, {"worker_id": worker_id, "tokens": list(tokens)})
