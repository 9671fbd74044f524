"""Which mesh this is: a random id, made with the schema, that every key and channel in Redis bears."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

_READ = text("SELECT id FROM mesh")
_RENEW = text("UPDATE mesh SET id = gen_random_uuid()")


async def read_mesh_id(engine: AsyncEngine) -> str:
    """The id. Raises what PostgreSQL's absence raises."""
    async with engine.connect() as connection:
        return str((await connection.execute(_READ)).scalar_one())


async def renew_mesh_id(connection: AsyncConnection) -> None:
    """Make this another mesh than the one of which the database is a copy."""
    await connection.execute(_RENEW)
