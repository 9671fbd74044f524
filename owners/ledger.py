"""What owners spend: a question each, and the tokens that the model server counted for their answers.

The counts of an answer stand in its row. The statement in ``questions`` that changes them books the change, as an entry
of its own, so that no two writers wait for one row. The sweeper folds entries into one row an owner and day, which
neither DELETE nor retention touches.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import date
from typing import Final, Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from owners.token_counts import TOKEN_COLUMNS, TokenCounts, each_count

ENTRY_SECONDS: Final = 60
"""For so long an entry is kept apart, so that the last minute can be counted."""
_FOLDED_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class UsageTotals(TokenCounts):
    """What an owner has spent in some time. ``requests``: questions asked. No count is None."""

    requests: int = 0

    def __post_init__(self) -> None:
        for name in TOKEN_COLUMNS:
            object.__setattr__(self, name, getattr(self, name) or 0)

    def __add__(self, other: Self) -> Self:
        return type(self)(**{name: getattr(self, name) + getattr(other, name) for name in ("requests", *TOKEN_COLUMNS)})


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of an owner today and this month, in UTC, and in each of the last ``ENTRY_SECONDS``: (age, tokens)."""

    day: int = 0
    month: int = 0
    lately: tuple[tuple[float, int], ...] = ()


_COUNTS = "requests, " + each_count("{0}")
_SUMS = "sum(requests)::bigint AS requests, " + each_count("sum({0})::bigint AS {0}")
_TOKENS = "prompt_tokens + completion_tokens + repeated_tokens"
_DAY = "(at AT TIME ZONE 'UTC')::date"
_TODAY = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
_THIS_MONTH = "date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date"
# In one order, so that two that fold at once do not deadlock.
_FOLD = text(f"""
    WITH taken AS (
        DELETE FROM ledger_entries WHERE ctid = ANY(ARRAY(
            SELECT ctid FROM ledger_entries WHERE at < clock_timestamp() - interval '{ENTRY_SECONDS} seconds'
            LIMIT {_FOLDED_AT_ONCE} FOR UPDATE SKIP LOCKED
        )) RETURNING *
    ), days AS (
        SELECT owner, {_DAY} AS day, {_SUMS} FROM taken GROUP BY 1, 2 ORDER BY 1, 2
    )
    INSERT INTO ledger_days (owner, day, {_COUNTS}) SELECT owner, day, {_COUNTS} FROM days
    ON CONFLICT (owner, day) DO UPDATE SET
        requests = ledger_days.requests + excluded.requests, {each_count("{0} = ledger_days.{0} + excluded.{0}")}
""")
# One snapshot: an entry is seen either apart or folded.
_READ = text(f"""
    SELECT day, {_SUMS} FROM (
        SELECT day, {_COUNTS} FROM ledger_days WHERE owner = :owner AND day BETWEEN :first AND :last
        UNION ALL
        SELECT {_DAY}, {_COUNTS} FROM ledger_entries WHERE owner = :owner AND {_DAY} BETWEEN :first AND :last
    ) AS spent GROUP BY day ORDER BY day
""")
_READ_BUDGETS = text(f"""
    WITH spent AS (
        SELECT owner, day, {_TOKENS} AS tokens, NULL::float AS age FROM ledger_days
        WHERE owner = ANY(CAST(:owners AS text[])) AND day >= {_THIS_MONTH}
        UNION ALL
        SELECT owner, {_DAY}, {_TOKENS}, ceil(extract(epoch FROM clock_timestamp() - at))::float
        FROM ledger_entries WHERE owner = ANY(CAST(:owners AS text[]))
    )
    SELECT owner, age,
        coalesce(sum(tokens) FILTER (WHERE day = {_TODAY}), 0)::bigint AS day,
        coalesce(sum(tokens) FILTER (WHERE day >= {_THIS_MONTH}), 0)::bigint AS month,
        sum(tokens)::bigint AS tokens
    FROM spent GROUP BY owner, age ORDER BY owner, age
""")


async def fold(connection: AsyncConnection) -> None:
    """Fold entries that are older than ``ENTRY_SECONDS`` into their days; harmless when doubled."""
    await connection.execute(_FOLD)


async def fold_by_itself(engine: AsyncEngine) -> None:
    """As ``fold``, in a transaction of its own."""
    async with engine.begin() as connection:
        await fold(connection)


async def read_days(engine: AsyncEngine, owner: str, first: date, last: date) -> dict[date, UsageTotals]:
    """What the owner has spent on each day of these, in UTC; days without anything are left out."""
    async with engine.connect() as connection:
        rows = await connection.execute(_READ, {"owner": owner, "first": first, "last": last})
        return {row.pop("day"): UsageTotals(**row) for row in map(dict, rows.mappings())}


async def read_budgets(engine: AsyncEngine, owners: Collection[str]) -> dict[str, Budget]:
    """The tokens of these owners, in one statement."""
    found: dict[str, Budget] = {owner: Budget() for owner in owners}
    async with engine.connect() as connection:
        for row in await connection.execute(_READ_BUDGETS, {"owners": list(owners)}):
            so_far = found[row.owner]
            lately = so_far.lately if row.age is None or not row.tokens else (*so_far.lately, (row.age, row.tokens))
            found[row.owner] = Budget(so_far.day + row.day, so_far.month + row.month, lately)
    return found
