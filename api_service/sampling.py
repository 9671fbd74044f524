"""Looking into PostgreSQL once a second, for what a process has to know and need not know at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.database import is_unavailable
from foundation.redis_client import Mesh
from questions.mesh import read_mesh_id

logger = logging.getLogger(__name__)

_SAMPLE_SECONDS = 1.0
_LOOK_SECONDS = 2.0
_FOLLOW_SECONDS = 10.0


async def every_second(look: Callable[[], Awaitable[None]], what: str) -> None:
    """Look until cancelled. While PostgreSQL is absent, what was seen last stands. ``what``: for the log."""
    while True:
        try:
            await look()
        except Exception as error:
            if not is_unavailable(error):
                logger.exception("could not look at %s", what)
        await asyncio.sleep(_SAMPLE_SECONDS)


async def follow_mesh_id(engine: AsyncEngine, mesh: Mesh) -> None:
    """Look until cancelled what the mesh's id is: at a restore it changes. Until it is known Redis is not used."""
    while True:
        await look_for_mesh_id(engine, mesh)
        await asyncio.sleep(_SAMPLE_SECONDS if mesh.id is None else _FOLLOW_SECONDS)


async def look_for_mesh_id(engine: AsyncEngine, mesh: Mesh) -> None:
    """Look once, for two seconds at most. While PostgreSQL is absent, what was seen last stands."""
    try:
        async with asyncio.timeout(_LOOK_SECONDS):
            mesh.id = await read_mesh_id(engine)
    except Exception as error:
        if not is_unavailable(error):
            raise
