"""What owners spend: a question each, and the tokens that the model server counted for their answers.

The counts of an answer stand in its row. Each change of them is booked by the statement that makes it, as an entry of
its own, so that no two writers wait for one row. The sweeper folds entries into one row an owner and day,
which neither DELETE nor retention touches.
"""

from collections.abc import Collection
from dataclasses import astuple, dataclass
from datetime import date
from typing import Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from live.answer_stream import Usage
from questions.claims import Claim
from questions.sql import first_question

ENTRY_SECONDS: Final = 60
"""For so long an entry is kept apart, so that the last minute can be counted."""
_FOLDED_AT_ONCE: Final = 10_000


@dataclass(frozen=True, slots=True)
class Spent:
    """Questions asked, and tokens. ``cached_prompt_tokens`` are among the prompt's.

    ``repeated_tokens`` were spent again because an attempt broke off; they are in no other count.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    repeated_tokens: int = 0

    @property
    def tokens(self) -> int:
        """All that the model server has read and written."""
        return self.prompt_tokens + self.completion_tokens + self.repeated_tokens

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(*(mine + theirs for mine, theirs in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Budget:
    """Tokens of an owner today and this month, in UTC, and in each of the last ``ENTRY_SECONDS``: (age, tokens)."""

    day: int = 0
    month: int = 0
    lately: tuple[tuple[float, int], ...] = ()


_COUNTS = "requests, prompt_tokens, completion_tokens, cached_prompt_tokens, repeated_tokens"
_SUMS = ", ".join(f"sum({name})::bigint AS {name}" for name in _COUNTS.split(", "))
_TOKENS = "prompt_tokens + completion_tokens + repeated_tokens"
_DAY = "(at AT TIME ZONE 'UTC')::date"
_TODAY = "(clock_timestamp() AT TIME ZONE 'UTC')::date"
_THIS_MONTH = "date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC')::date"
# Whoever has the token may book, even after the answer was ended under its holder's hands: the row keeps the token of
# the latest claim. No row at all: it is erased, and its owner is charged all the same.
_BOOK = text(f"""
    WITH before AS (
        SELECT id, coalesce(owner, (SELECT owner FROM {first_question("answers.id")}), '')
                AS owner,
            coalesce(prompt_tokens, 0) AS prompt_tokens, coalesce(completion_tokens, 0) AS completion_tokens,
            coalesce(cached_prompt_tokens, 0) AS cached_prompt_tokens, repeated_tokens
        FROM answers WHERE id = :answer_id AND token = :token FOR UPDATE
    ), booked AS (
        UPDATE answers SET prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens,
            cached_prompt_tokens = :cached_prompt_tokens, repeated_tokens = :repeated_tokens
        WHERE id = ANY(ARRAY(SELECT id FROM before))
    ), paying AS (
        SELECT owner, prompt_tokens, completion_tokens, cached_prompt_tokens, repeated_tokens FROM before
        UNION ALL
        SELECT CAST(:owner AS text), CAST(:erased_prompt_tokens AS integer), CAST(:erased_completion_tokens AS integer),
            CAST(:erased_cached_prompt_tokens AS integer), CAST(:erased_repeated_tokens AS integer)
        WHERE CAST(:owner AS text) IS NOT NULL AND NOT EXISTS (SELECT FROM answers WHERE id = :answer_id)
    )
    INSERT INTO ledger_entries (owner, prompt_tokens, completion_tokens, cached_prompt_tokens, repeated_tokens)
    SELECT owner, coalesce(:prompt_tokens, 0) - prompt_tokens, coalesce(:completion_tokens, 0) - completion_tokens,
        coalesce(:cached_prompt_tokens, 0) - cached_prompt_tokens, :repeated_tokens - repeated_tokens
    FROM paying
""")
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
        {", ".join(f"{name} = ledger_days.{name} + excluded.{name}" for name in _COUNTS.split(", "))}
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


async def book(engine: AsyncEngine, claim: Claim, usage: Usage) -> None:
    """Note what the answer has taken so far, over all its attempts; nothing if another claim has it by now.

    Noting the same again changes nothing. If the answer is erased, its owner is charged all the same.
    """
    if not usage.tokens:
        return
    spent = claim.spent
    parameters = {
        "answer_id": claim.answer_id,
        "token": claim.token,
        "prompt_tokens": usage.prompt_tokens,
        # A server that counts only at the end has written at least a token in each piece.
        "completion_tokens": usage.written_tokens,
        "cached_prompt_tokens": usage.cached_prompt_tokens,
        "repeated_tokens": usage.repeated_tokens,
        "owner": claim.owner,
        "erased_prompt_tokens": spent.prompt_tokens or 0,
        "erased_completion_tokens": spent.written_tokens,
        "erased_cached_prompt_tokens": spent.cached_prompt_tokens or 0,
        "erased_repeated_tokens": spent.repeated_tokens,
    }
    async with engine.begin() as connection:
        await connection.execute(_BOOK, parameters)


async def fold(connection: AsyncConnection) -> None:
    """Fold entries that are older than ``ENTRY_SECONDS`` into their days; harmless when doubled."""
    await connection.execute(_FOLD)


async def fold_by_itself(engine: AsyncEngine) -> None:
    """As ``fold``, in a transaction of its own."""
    async with engine.begin() as connection:
        await fold(connection)


async def read_days(engine: AsyncEngine, owner: str, first: date, last: date) -> dict[date, Spent]:
    """What the owner has spent on each day of these, in UTC; days without anything are left out."""
    async with engine.connect() as connection:
        rows = await connection.execute(_READ, {"owner": owner, "first": first, "last": last})
        return {row.day: Spent(*row[1:]) for row in rows}


async def read_budgets(engine: AsyncEngine, owners: Collection[str]) -> dict[str, Budget]:
    """The tokens of these owners, in one statement."""
    found: dict[str, Budget] = {owner: Budget() for owner in owners}
    async with engine.connect() as connection:
        for row in await connection.execute(_READ_BUDGETS, {"owners": list(owners)}):
            so_far = found[row.owner]
            lately = so_far.lately if row.age is None or not row.tokens else (*so_far.lately, (row.age, row.tokens))
            found[row.owner] = Budget(so_far.day + row.day, so_far.month + row.month, lately)
    return found
