"""What answers behind a name, so that no answer is taken for that of another model."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import fetch

UNKNOWN = ""
"""The identity while nobody has said which model answers. No answer bears it, so that none is reused under it."""

_REMEMBERED = text("SELECT identity FROM models WHERE name = :name")
_REMEMBER = text("""
    INSERT INTO models (name, identity) VALUES (:name, :identity)
    ON CONFLICT (name) DO UPDATE SET identity = excluded.identity, seen_at = clock_timestamp()
    WHERE models.identity <> excluded.identity
""")


def identity(model_id: str, revision: str) -> str:
    """A model, by its id and its ``revision`` as llm_service reports them: equal for equal weights, as far as it knows.

    Unknown where llm_service does not say which model it is.
    """
    # A revision has no @ in it, so that no two pairs make one identity. NUL, PostgreSQL's text cannot hold.
    return f"{model_id}@{revision}".replace("\0", "\N{REPLACEMENT CHARACTER}") if model_id else UNKNOWN


def model_id(identity: str) -> str:
    """The id in an identity."""
    return identity.rpartition("@")[0]


async def remembered(engine: AsyncEngine, name: str) -> str:
    """The identity that was seen last behind a name, or behind the default, which has an empty one."""
    rows = await fetch(engine, _REMEMBERED, {"name": name})
    return rows[0]["identity"] if rows else UNKNOWN


async def remember(engine: AsyncEngine, name: str, identity: str) -> None:
    """Note the identity, for processes that start while llm_service is away."""
    await fetch(engine, _REMEMBER, {"name": name, "identity": identity})
