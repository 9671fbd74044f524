"""``askmesh restored``: what a restored database needs before services use it."""

from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from fleet.mesh import renew_mesh_id
from schema.tables import claimed_turns

SKIPPED: Final = 1_000_000_000
"""More numbers than any mesh gives out between a backup and a failure. They end at 2^53, 9 million restores away."""


async def become_another_mesh(engine: AsyncEngine) -> int:
    """Take a new id, and let sequences of ids and tokens go on far beyond what the backup knows; returns how many.

    What was given out after the backup is held by clients and by Redis: a new question under such an id would be shown
    the answer of the lost one. Under the new id Redis holds nothing; and where the backup's mesh lives on beside this
    one, they do not mix.

    Not the latest turn, which stands among those of the questions that the backup has: who asks next would wait for all
    of them.
    """
    async with engine.begin() as connection:
        skipped = await connection.execute(
            text(
                "SELECT setval(format('%I.%I', schemaname, sequencename)::regclass, coalesce(last_value, 1) + :skipped)"
                " FROM pg_sequences WHERE schemaname = current_schema() AND sequencename <> :turns"
            ),
            {"skipped": SKIPPED, "turns": claimed_turns.name},
        )
        await renew_mesh_id(connection)
        return len(skipped.all())
