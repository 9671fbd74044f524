"""Booking what an answer takes that has not ended: its counts, and an entry in its owner's ledger."""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from owners.token_counts import TokenCounts, each_count
from questions.claims import Claim
from questions.sql import COUNTS, SET_COUNTS, booking_parameters, first_question

# Whoever has the token may book, even after the answer was ended under its holder's hands: the row keeps the token of
# the latest claim. No row at all: it is erased, and its owner is charged all the same.
_BOOK = text(f"""
    WITH before AS (
        SELECT id, coalesce(owner, (SELECT owner FROM {first_question("answers.id")}), '')
                AS owner,
            {each_count("coalesce({0}, 0) AS {0}")}
        FROM answers WHERE id = :answer_id AND token = :token FOR UPDATE
    ), booked AS (
        UPDATE answers SET {SET_COUNTS}
        WHERE id = ANY(ARRAY(SELECT id FROM before))
    ), paying AS (
        SELECT owner, {COUNTS} FROM before
        UNION ALL
        SELECT CAST(:owner AS text), {each_count("CAST(:booked_{0} AS integer)")}
        WHERE CAST(:owner AS text) IS NOT NULL AND NOT EXISTS (SELECT FROM answers WHERE id = :answer_id)
    )
    INSERT INTO ledger_entries (owner, {COUNTS})
    SELECT owner, {each_count("coalesce(:{0}, 0) - {0}")}
    FROM paying
""")


async def book(engine: AsyncEngine, claim: Claim, usage: TokenCounts) -> None:
    """Note what the answer has taken so far, over all its attempts; nothing if another claim has it by now.

    Noting the same again changes nothing. If the answer is erased, its owner is charged all the same.
    """
    if not usage.total_tokens:
        return
    parameters = booking_parameters(usage, claim.spent) | {
        "answer_id": claim.answer_id,
        "token": claim.token,
        # A server that counts only at the end has written at least a token in each piece.
        "completion_tokens": usage.written_tokens,
        "owner": claim.owner,
    }
    async with engine.begin() as connection:
        await connection.execute(_BOOK, parameters)
