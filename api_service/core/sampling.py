"""Looking into PostgreSQL again and again, for what a process has to know and need not know at once."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncEngine

from fleet.mesh import read_mesh_id
from foundation.postgresql.errors import is_outage
from foundation.reachability import Reachability
from foundation.redis import RedisState

logger = logging.getLogger(__name__)

_SAMPLE_SECONDS = 1.0
_LOOK_SECONDS = 2.0
_FOLLOW_SECONDS = 10.0


async def every_second(look: Callable[[], Awaitable[None]], what: str) -> None:
    """Look until cancelled. While PostgreSQL is absent, what was seen last stands. ``what``: for the log."""
    await every(_SAMPLE_SECONDS, look, what)


async def every(seconds: float, look: Callable[[], Awaitable[None]], what: str) -> None:
    """As ``every_second``, with as many seconds between."""
    while True:
        try:
            await look()
        except Exception as error:
            if not is_outage(error):
                logger.exception("could not look at %s", what)
        await asyncio.sleep(seconds)


class MeshIdentity:
    """Learns from PostgreSQL which mesh this is. Until that is known Redis is not used."""

    def __init__(self, engine: AsyncEngine, mesh: RedisState) -> None:
        self._engine = engine
        self._mesh = mesh
        self._refused = Reachability.of("PostgreSQL", "it does not tell the mesh's id, without which Redis is not used")

    async def follow(self) -> None:
        """Look until cancelled: at a restore the id changes."""
        while True:
            await self.look()
            await asyncio.sleep(_SAMPLE_SECONDS if self._mesh.id is None else _FOLLOW_SECONDS)

    async def look(self) -> None:
        """Look once, for two seconds at most. While PostgreSQL does not tell, what was seen last stands."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                self._mesh.id = await read_mesh_id(self._engine)
        except Exception as error:  # noqa: BLE001 - a wrong password or a missing permission, as an absent server
            if not is_outage(error):
                self._refused.failed(error)
        else:
            self._refused.succeeded()
