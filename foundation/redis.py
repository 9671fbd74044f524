"""The connection to Redis or Valkey: one pool a process, with short time-outs, because Redis only speeds up.

Every key and channel bears the mesh's id, so that two meshes on one server do not mix, whatever database numbers they
use: channels have none. A connection that leads to a server which does not serve (demoted, loading, full, of another
password) is given up, so that the next call finds the server that does.
"""

import time
from typing import Any, Final

from redis.asyncio import BlockingConnectionPool, Redis
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
    parse_url,
)
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoScriptError, ResponseError

from foundation.reachability import Reachability
from foundation.settings import RedisSettings
from foundation.unreadable import Unreadable

_LONGEST_SECONDS: Final = 60.0
"""A connection is made anew after so long: a name can lead to another server, and the old one may not say a word."""
_PAUSE_SECONDS: Final = 1.0
"""Between two times that all connections are given up: a full server is not asked for a connection a call."""
_PROBE_SECONDS: Final = 60
_SETTLED_SECONDS: Final = 3.0
"""Longer than between two echoes (live.signals) while Redis does not serve."""
# Replies that speak of our keys and scripts, and not of the server.
_OF_OURS: Final = ("NOSCRIPT", "WRONGTYPE")


class UnknownMeshError(RedisConnectionError):
    """PostgreSQL, which keeps the mesh's id, has not told it yet. Until then Redis counts as not reachable."""


class RedisState:
    """What all clients of a process share: whose names they use, whether Redis serves, what could not be read."""

    def __init__(self, without: str, mesh_id: str | None = None) -> None:
        """``without``: what it means that Redis does not serve, for the log."""
        self.id = mesh_id
        """None until PostgreSQL has told it."""
        self.outage = Reachability.of("Redis", without, settled_seconds=_SETTLED_SECONDS)
        self.unreadable = Unreadable()
        self.given_up_at = 0.0
        """Connections that were made before then are made anew."""

    def give_up_connections(self) -> None:
        """One of them leads to a server that does not serve, and so may the others. Once a second at most."""
        now = time.monotonic()
        if now >= self.given_up_at + _PAUSE_SECONDS:
            self.given_up_at = now

    def note(self, error: BaseException) -> None:
        """A call failed."""
        if not isinstance(error, UnknownMeshError):
            self.outage.failed(error)


class MeshRedis(Redis):
    """A client for one mesh."""

    def __init__(self, *, mesh: RedisState, **options: Any) -> None:
        super().__init__(**options)
        self.mesh = mesh

    def name(self, *parts: object) -> str:
        """The name of a key or channel of this mesh. Raises UnknownMeshError."""
        if self.mesh.id is None:
            raise UnknownMeshError
        return ":".join(("askmesh", self.mesh.id, *map(str, parts)))

    async def probe(self) -> None:
        """Write something, which a ping would not show to be possible. Raises RedisError or OSError."""
        await self.set(self.name("probe"), b"", ex=_PROBE_SECONDS)

    async def drop_rubbish(self, key: str, kind: str, error: ResponseError) -> bool:
        """Delete a key that holds another type than it must; False where that is not what the error says.

        Raises RedisError or OSError.
        """
        if "WRONGTYPE" not in str(error):
            return False
        self.mesh.unreadable.skip(kind, error)
        await self.delete(key)
        return True


class _RefusalNoting:
    """A connection that notes whether its server serves."""

    made_at = 0.0
    greeting = False
    refused = False

    async def on_connect_check_health(self, check_health: bool = True) -> None:
        self.made_at = time.monotonic()
        self.greeting = True  # old servers refuse parts of it, and may
        await super().on_connect_check_health(check_health)  # type: ignore[misc] # a mixin
        self.greeting = self.refused = False

    async def read_response(self, *arguments: Any, **options: Any) -> Any:
        try:
            return await super().read_response(*arguments, **options)  # type: ignore[misc] # a mixin
        except ResponseError as error:
            if not (self.greeting or isinstance(error, NoScriptError) or str(error).startswith(_OF_OURS)):
                self.refused = True
            raise


class _Tcp(_RefusalNoting, Connection):
    pass


class _Tls(_RefusalNoting, SSLConnection):
    pass


class _Unix(_RefusalNoting, UnixDomainSocketConnection):
    pass


_CONNECTIONS: Final[dict[type[AbstractConnection], type[AbstractConnection]]] = {
    Connection: _Tcp,
    SSLConnection: _Tls,
    UnixDomainSocketConnection: _Unix,
}


class _Pool(BlockingConnectionPool):
    """Makes a connection anew that is old, or was given up, before it is used again."""

    def __init__(self, mesh: RedisState, **options: Any) -> None:
        super().__init__(**options)
        self._mesh = mesh

    async def ensure_connection(self, connection: AbstractConnection) -> None:
        if isinstance(connection, _RefusalNoting):
            alive_from = max(time.monotonic() - _LONGEST_SECONDS, self._mesh.given_up_at)
            if connection.made_at <= alive_from:
                await connection.disconnect(nowait=True)
        await super().ensure_connection(connection)

    async def release(self, connection: AbstractConnection) -> None:
        if isinstance(connection, _RefusalNoting) and connection.refused:
            connection.refused = False
            self._mesh.give_up_connections()
        await super().release(connection)


def create_redis(settings: RedisSettings, mesh: RedisState | None = None, *, blocks: float = 0) -> MeshRedis:
    """A client whose calls fail within two seconds where Redis does not answer.

    ``mesh``: what it shares with the other clients of the process. ``blocks``: seconds that a call may wait in Redis
    besides.

    It opens at most 50 connections; calls beyond that wait for one for at most a second.
    """
    options: dict[str, Any] = {
        "max_connections": 50,
        "timeout": 1,
        "socket_timeout": 1 + blocks,
        "socket_connect_timeout": 1,
        "retry": Retry(NoBackoff(), 0),
        "health_check_interval": 0,
        **parse_url(settings.redis_url.get_secret_value()),
    }
    options["connection_class"] = _CONNECTIONS[options.get("connection_class", Connection)]
    mesh = mesh or RedisState("it is done without")
    client = MeshRedis(mesh=mesh, connection_pool=_Pool(mesh, **options))
    client.auto_close_connection_pool = True
    return client
