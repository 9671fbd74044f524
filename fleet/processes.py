"""Which processes of the mesh run, and whether they agree: kept in PostgreSQL, so that each can look at the others.

Settings that several processes read decide together what the mesh does. Where one process has another value than its
neighbour, as after half of an upgrade, each of the two says so once in its log, and ``askmesh status`` shows it.
"""

import asyncio
import hashlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import urlsplit

import orjson
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.errors import DATABASE_ERRORS, is_outage
from foundation.settings import PREFIX, Group

logger = logging.getLogger(__name__)

BEAT_SECONDS: Final = 15.0
_END_SECONDS: Final = 1.0
_SEEN: Final = "seen_at > clock_timestamp() - interval '1 minute'"
# Longer ones, as a system prompt, are compared and not shown.
_LONGEST_SHOWN: Final = 60


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that runs. ``state``: what it says of itself, as how many slots it uses."""

    id: int
    service: str
    name: str
    version: str
    started_at: datetime
    seen_at: datetime
    settings: Mapping[str, str]
    state: Mapping[str, Any]


_REGISTER = text("""
    INSERT INTO processes (service, name, version, settings, state)
    VALUES (:service, :name, :version, CAST(:settings AS jsonb), CAST(:state AS jsonb)) RETURNING id
""")
# A row that is gone, as after a restore of PostgreSQL, is made again by whoever finds no row.
_BEAT = text("""
    UPDATE processes SET seen_at = clock_timestamp(), state = CAST(:state AS jsonb) WHERE id = :id RETURNING id
""")
_RUNNING = text(f"""
    SELECT id, service, name, version, started_at, seen_at, settings, state FROM processes WHERE {_SEEN}
    ORDER BY service, id
""")
_FORGET = text("DELETE FROM processes WHERE seen_at < clock_timestamp() - interval '1 hour'")
_END = text("DELETE FROM processes WHERE id = :id")


def shown_settings(groups: Iterable[Group], *, exclude: Iterable[str] = ()) -> dict[str, str]:
    """The values of these groups, by environment variable, in a form that others may see.

    Of a URL only where it leads; of a long text its SHA-256. ``exclude``: fields that may differ between processes.
    """
    excluded = set(exclude)
    return {
        PREFIX + name.upper(): _shown(value)
        for group in groups
        for name, value in group
        if name not in excluded and value is not None
    }


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        url = urlsplit(value.get_secret_value())
        return f"{url.scheme}://{url.netloc.rpartition('@')[2]}{url.path}"
    shown = str(value)
    return shown if len(shown) <= _LONGEST_SHOWN else f"sha256:{hashlib.sha256(shown.encode()).hexdigest()[:16]}"


async def running(engine: AsyncEngine) -> list[ProcessInfo]:
    """All that were seen within a minute."""
    async with engine.connect() as connection:
        return [ProcessInfo(**row._asdict()) for row in await connection.execute(_RUNNING)]


def differences(ours: Mapping[str, str], others: Iterable[ProcessInfo]) -> dict[str, str]:
    """What differs, in words, by who and which setting: only what both read is compared."""
    return {
        f"{other.name} {name}": f"{name} is {ours[name]!r} here and {theirs!r} in {other.service} {other.name}"
        for other in others
        for name, theirs in other.settings.items()
        if name in ours and ours[name] != theirs
    }


class ProcessRecord:
    """This process among the others, kept by one task."""

    def __init__(
        self,
        engine: AsyncEngine,
        service: str,
        version: str,
        settings: Mapping[str, str],
        state: Callable[[], Mapping[str, Any]] = dict,
    ) -> None:
        self._engine = engine
        self._service = service
        self._name = f"{socket.gethostname()} {os.getpid()}"
        self._version = version
        self._settings = settings
        self._state = state
        self._id: int | None = None
        self._reported: set[str] = set()

    async def keep(self) -> None:
        """Say that this process runs, and warn where others differ, for ever; while PostgreSQL is there."""
        while True:
            try:
                await self.beat()
            except DATABASE_ERRORS as error:
                if not is_outage(error):
                    raise
            await asyncio.sleep(BEAT_SECONDS)

    async def beat(self) -> None:
        """Say so once, and compare."""
        state = orjson.dumps(dict(self._state())).decode()
        async with self._engine.begin() as connection:
            known = (
                self._id is not None
                and (await connection.execute(_BEAT, {"id": self._id, "state": state})).one_or_none()
            )
            if not known:
                parameters = {"service": self._service, "name": self._name, "version": self._version, "state": state}
                settings = orjson.dumps(dict(self._settings)).decode()
                self._id = (await connection.execute(_REGISTER, parameters | {"settings": settings})).scalar_one()
                await connection.execute(_FORGET)
        self._compare([process for process in await running(self._engine) if process.id != self._id])

    async def end(self) -> None:
        """This process runs no more. Without PostgreSQL the row tells so by its age."""
        if self._id is None:
            return
        with suppress(*DATABASE_ERRORS):
            async with asyncio.timeout(_END_SECONDS), self._engine.begin() as connection:
                await connection.execute(_END, {"id": self._id})
        self._id = None

    def _compare(self, others: list[ProcessInfo]) -> None:
        found = differences(self._settings, others)
        for key in found.keys() - self._reported:
            logger.warning("%s: set it to the same in both, or restart the one that has not been yet", found[key])
        self._reported = set(found)
