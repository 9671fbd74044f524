"""API keys: how they look, and the table that knows their hashes.

A key is ``askmesh_``, 43 characters for 256 random bits and 6 for a checksum, by which a program that looks for secrets
in files knows one from chance, and a mistyped one is refused without a look into the table.

Only SHA-256 of a key is kept. A slow hash, as for passwords, would protect what can be guessed: 256 random bits cannot,
however fast one hashes.
"""

import hashlib
import logging
import re
import secrets
import string
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from owners.limits import NO_OVERRIDES, LimitOverrides
from owners.roles import Role

logger = logging.getLogger(__name__)

PREFIX = "askmesh_"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_SECRET_CHARACTERS = 43
_CHECK_CHARACTERS = 6
_SHOWN_CHARACTERS = len(PREFIX) + 6
_KEY = re.compile(rf"{PREFIX}[0-9A-Za-z]{{{_SECRET_CHARACTERS + _CHECK_CHARACTERS}}}", re.ASCII)
TENANT = re.compile(r"[\x21-\x7e]{1,255}")
"""How a tenant may be called: as a subject of OIDC, in visible ASCII characters."""


def new_key() -> str:
    """A key that nobody has."""
    secret = _base62(int.from_bytes(secrets.token_bytes(32)), _SECRET_CHARACTERS)
    return f"{PREFIX}{secret}{_check(secret)}"


def is_well_formed(key: str) -> bool:
    """Whether it looks like a key, checksum included."""
    return bool(_KEY.fullmatch(key)) and _check(key[len(PREFIX) : -_CHECK_CHARACTERS]) == key[-_CHECK_CHARACTERS:]


def hash_of(key: str) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).digest()


def _check(secret: str) -> str:
    return _base62(zlib.crc32(secret.encode()), _CHECK_CHARACTERS)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_ALPHABET))
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as operators see it: without the key. ``limits``: those that it has of its own, by their names."""

    id: int
    prefix: str
    tenant: str
    role: Role
    limits: dict[str, int]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    valid: bool


@dataclass(frozen=True, slots=True)
class ValidKey:
    """A key that may be used for ``seconds_left`` more; None: until it is revoked."""

    id: int
    tenant: str
    role: Role
    limits: LimitOverrides
    seconds_left: float | None


_VALID = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
# Whoever edits the table by hand can write anything there.
_LIMITS = "CASE jsonb_typeof(limits) WHEN 'object' THEN limits ELSE '{}' END"
_COLUMNS = f"id, prefix, tenant, role, {_LIMITS} AS limits, created_at, expires_at, revoked_at, {_VALID} AS valid"
_INSERT = text(f"""
    INSERT INTO api_keys (hash, prefix, tenant, role, limits, expires_at)
    VALUES (:hash, :prefix, :tenant, :role, CAST(:limits AS jsonb),
            clock_timestamp() + CAST(:lifetime AS interval))
    RETURNING {_COLUMNS}
""")
_LIST = text(f"""
    SELECT {_COLUMNS} FROM api_keys
    WHERE (CAST(:tenant AS text) IS NULL OR tenant = :tenant) AND (:all OR {_VALID}) ORDER BY id
""")
_LOCK = text(f"""
    SELECT tenant, role, CAST(limits AS text) AS limits, expires_at - clock_timestamp() AS left
    FROM api_keys WHERE id = :id AND {_VALID} FOR UPDATE
""")
# What is not named, also by a later release, stays as it is.
_LIMIT = text(f"""
    UPDATE api_keys SET limits = jsonb_strip_nulls({_LIMITS} || CAST(:limits AS jsonb))
    WHERE id = :id AND {_VALID} RETURNING {_COLUMNS}
""")
_REVOKE = text(f"UPDATE api_keys SET revoked_at = clock_timestamp() WHERE id = :id AND {_VALID} RETURNING id")
_END_AFTER = text("""
    UPDATE api_keys SET expires_at = least(expires_at, clock_timestamp() + CAST(:overlap AS interval)) WHERE id = :id
""")
_FIND = text(f"""
    SELECT hash, id, tenant, role, CAST(nullif(limits, 'null') AS text) AS limits,
        CAST(extract(epoch FROM expires_at - clock_timestamp()) AS float8) AS left
    FROM api_keys WHERE hash = ANY(:hashes) AND {_VALID}
""")


async def create(
    engine: AsyncEngine,
    tenant: str,
    role: Role,
    lifetime: timedelta | None = None,
    limits: LimitOverrides = NO_OVERRIDES,
) -> tuple[str, ApiKey]:
    """A new key, which nobody can ask for again, and what is kept of it."""
    async with engine.begin() as connection:
        return await _insert(connection, tenant, role, limits.model_dump_json(exclude_none=True), lifetime)


async def list_keys(engine: AsyncEngine, tenant: str | None = None, *, all_: bool = False) -> list[ApiKey]:
    """The valid keys, of one tenant or of all; ``all_``: those too that have expired or were revoked."""
    async with engine.connect() as connection:
        rows = await connection.execute(_LIST, {"tenant": tenant, "all": all_})
        return [_key(row._asdict()) for row in rows]


async def rotate(
    engine: AsyncEngine, key_id: int, overlap: timedelta, lifetime: timedelta | None = None
) -> tuple[str, ApiKey] | None:
    """A key in place of another, which stays valid for the overlap. None: there is no such key, or it is not valid.

    The new one has its tenant, role and limits, and lives for ``lifetime``; None: as long as the old one would have.
    """
    async with engine.begin() as connection:
        old = (await connection.execute(_LOCK, {"id": key_id})).one_or_none()
        if old is None:
            return None
        made = await _insert(connection, old.tenant, Role(old.role), old.limits, lifetime or old.left)
        if overlap:
            await connection.execute(_END_AFTER, {"id": key_id, "overlap": overlap})
        else:
            await connection.execute(_REVOKE, {"id": key_id})
        return made


async def limit(engine: AsyncEngine, key_id: int, limits: Mapping[str, int | None]) -> ApiKey | None:
    """Give a key limits of its own, by their names in LimitOverrides; None: what the setting says holds again.

    Limits that are not named stay. Returns None if there is no such key, or it is not valid.
    """
    async with engine.begin() as connection:
        parameters = {"id": key_id, "limits": orjson.dumps(limits).decode()}
        row = (await connection.execute(_LIMIT, parameters)).one_or_none()
        return None if row is None else _key(row._asdict())


async def revoke(engine: AsyncEngine, key_id: int) -> bool:
    """End a key now. False: there is no such key, or it is not valid."""
    async with engine.begin() as connection:
        return (await connection.execute(_REVOKE, {"id": key_id})).one_or_none() is not None


async def find(engine: AsyncEngine, hashes: Sequence[bytes]) -> dict[bytes, ValidKey]:
    """Those of the hashes that are of valid keys. One with limits that none can have is left out, and logged."""
    async with engine.connect() as connection:
        rows = (await connection.execute(_FIND, {"hashes": list(hashes)})).all()
    return {
        row.hash: ValidKey(row.id, row.tenant, Role(row.role), limits, row.left)
        for row in rows
        if (limits := _limits(row.id, row.limits)) is not None
    }


def _limits(key_id: int, stored: str | None) -> LimitOverrides | None:
    if stored is None:
        return NO_OVERRIDES
    try:
        return LimitOverrides.model_validate_json(stored)
    except ValidationError as error:
        # What is no object at all names no limit: all of them, then.
        names = sorted(
            {str(wrong["loc"][0]) for wrong in error.errors() if wrong["loc"]} or LimitOverrides.model_fields
        )
        logger.warning(
            "API key %d is refused, because its limits in api_keys are wrong: %s. Run"
            " `askmesh keys limit %d %s`, or give it others: `askmesh keys limit --help`",
            key_id,
            ", ".join(f"{'.'.join(map(str, wrong['loc'])) or 'all'}: {wrong['msg']}" for wrong in error.errors()),
            key_id,
            " ".join(f"{name}=default" for name in names),
        )
        return None


async def _insert(
    connection: AsyncConnection, tenant: str, role: Role, limits: str | None, lifetime: timedelta | None
) -> tuple[str, ApiKey]:
    key = new_key()
    parameters = {
        "hash": hash_of(key),
        "prefix": key[:_SHOWN_CHARACTERS],
        "tenant": tenant,
        "role": role,
        "limits": limits,
        "lifetime": lifetime,
    }
    return key, _key((await connection.execute(_INSERT, parameters)).one()._asdict())


def _key(fields: dict[str, object]) -> ApiKey:
    return ApiKey(**fields | {"role": Role(str(fields["role"]))})  # type: ignore[arg-type]
