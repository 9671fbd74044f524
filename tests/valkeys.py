"""Valkey servers that tests demote, fill and lock, and a name that leads to one of them at a time."""

import asyncio
import os
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.asyncio import Redis

from embedded.valkey import Valkey


class Name:
    """A socket's path that leads to one server at a time, as a DNS name leads to one address."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def url(self) -> str:
        return f"unix://{self._path}"

    def lead_to(self, server: Valkey) -> None:
        """New connections go there; those of before stay where they are."""
        self._path.unlink(missing_ok=True)
        self._path.symlink_to(server._socket)


async def tell(server: Valkey, *commands: tuple[str, ...]) -> None:
    """Run commands on this server, whatever it refuses to others."""
    async with Redis.from_url(server.url()) as client:
        for command in commands:
            await client.execute_command(*command)  # type: ignore[no-untyped-call]


async def fill(server: Valkey) -> None:
    """Leave no memory for anything more, and let nothing be evicted."""
    async with Redis.from_url(server.url()) as client:
        used = (await client.info("memory"))["used_memory"]
    await tell(
        server, ("CONFIG", "SET", "maxmemory-policy", "noeviction"), ("CONFIG", "SET", "maxmemory", str(used // 2))
    )


async def demote(server: Valkey) -> None:
    """As an operator or Sentinel does after a failover: a replica of a server that is not there."""
    await tell(server, ("REPLICAOF", "127.0.0.1", "1"))


async def strand(server: Valkey) -> None:
    """A replica that does not even read, because it has lost its primary."""
    await tell(server, ("CONFIG", "SET", "replica-serve-stale-data", "no"), ("REPLICAOF", "127.0.0.1", "1"))


async def fail_to_save(server: Valkey) -> None:
    """It takes no writes, because its disk is full and it could not keep them."""
    resource.prlimit(server._child.pid, resource.RLIMIT_FSIZE, (500_000, 500_000))
    async with Redis.from_url(server.url()) as client, asyncio.timeout(60):
        await client.set("large", os.urandom(1_000_000), ex=600)
        await client.config_set("save", "3600 1")
        await client.bgsave()
        while (await client.info("persistence"))["rdb_last_bgsave_status"] == "ok":
            await asyncio.sleep(0.05)


async def lock(server: Valkey) -> None:
    """Another password than clients have; connections that are open must say it too."""
    await tell(server, ("ACL", "SETUSER", "default", "resetpass", ">another", "-@write", "-eval", "-evalsha", "-blpop"))


async def forbid_writing(server: Valkey) -> None:
    """The user of the clients may read only."""
    await tell(server, ("ACL", "SETUSER", "default", "-@write"))


async def want_replicas(server: Valkey) -> None:
    """It takes writes only where a replica does too, and has none."""
    await tell(server, ("CONFIG", "SET", "min-replicas-to-write", "1"))


REFUSALS: dict[str, Callable[[Valkey], Awaitable[None]]] = {
    "a demoted server": demote,
    "a replica that lost its primary": strand,
    "a full server": fill,
    "a server whose disk is full": fail_to_save,
    "another password": lock,
    "a user who may not write": forbid_writing,
    "a server that wants replicas": want_replicas,
}
"""How a server that can be reached does not serve."""


@contextmanager
def two_servers(folder: Path) -> Iterator[tuple[Valkey, Valkey, Name]]:
    """Two servers, and a name that leads to the first."""
    with Valkey(folder / "one") as one, Valkey(folder / "other") as other:
        name = Name(one._socket.with_name("name.sock"))
        name.lead_to(one)
        yield one, other, name
