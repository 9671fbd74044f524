"""Whether one owner is all that there is, or slots have to be shared."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

# By the first and the last of an index. Who has a key may ask at any moment; a token's subject is known once it asked.
_SEVERAL: Final = text("""
    SELECT coalesce((SELECT owner FROM ledger_days ORDER BY owner, day LIMIT 1)
            <> (SELECT owner FROM ledger_days ORDER BY owner DESC, day DESC LIMIT 1), false)
        OR coalesce((SELECT owner FROM answers WHERE state IN ('queued', 'in_progress')
                ORDER BY owner, priority, turn LIMIT 1)
            <> (SELECT owner FROM answers WHERE state IN ('queued', 'in_progress') AND owner IS NOT NULL
                ORDER BY owner DESC, priority DESC, turn DESC LIMIT 1), false)
        OR EXISTS (SELECT FROM api_keys WHERE revoked_at IS NULL
            AND tenant <> (SELECT tenant FROM api_keys WHERE revoked_at IS NULL ORDER BY id LIMIT 1))
""")


async def has_several_owners(engine: AsyncEngine) -> bool:
    """Whether more than one owner asks, has ever been booked for asking, or has a key to ask with."""
    async with engine.connect() as connection:
        return bool((await connection.execute(_SEVERAL)).scalar_one())
