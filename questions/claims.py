"""Claiming answers to generate, under a worker's lease, and writing back what became of them.

Each write carries the claim's token and changes nothing once the claim is no longer current: the worker's lease
ran out, or nobody waits for the answer any more. A False return says so; the worker then drops the work.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import fetch
from owners.token_counts import NO_TOKENS, TokenCounts, each_count
from questions.sql import COUNTS, SET_COUNTS, booking_parameters, first_question
from questions.states import ErrorReason, FinishReason, State
from questions.suspects import POISON_FROM, SUSPECT, SUSPECT_FROM

MOST_PASSED_OVER = 2_000
"""So many answers at the head of the queue are looked at for those of other owners, where some may have no more."""
TRIAL_SECONDS = 10.0
"""For so long after a suspect was claimed no other one is, in no worker, unless it is acquitted before."""


@dataclass(frozen=True, slots=True)
class Claim:
    """An answer to generate. ``attempt`` counts claims from 1; ``waits`` those in a row that met no model server.

    ``request`` is what to generate, as a serialised GenerationSpec; where it is None, ``question_text`` is there.
    ``epoch`` counts how often text that readers may have seen was taken back. ``seconds_left``: until the earliest
    deadline of those who had asked for it when it was claimed. ``owner`` pays for it; None: it was asked for under a
    release that did not note who does. ``request_id``: of the request that it was made for. ``spent``: what attempts
    before have taken, as booked.
    """

    answer_id: int
    token: int
    attempt: int
    epoch: int
    waits: int
    interruptions: int
    request: bytes | None
    question_text: str | None
    losses: int = 0
    seconds_left: float = 604_800.0
    owner: str | None = None
    request_id: str | None = None
    spent: TokenCounts = NO_TOKENS

    @property
    def is_suspect(self) -> bool:
        """Whether it may be what kills workers or engines."""
        return max(self.losses, self.interruptions) >= SUSPECT_FROM


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What the model wrote. ``state`` is completed or incomplete.

    ``written_by``: the identity of the model that has written all of it; None: not known.
    """

    state: State
    text: str
    finish_reason: FinishReason
    usage: TokenCounts = NO_TOKENS
    written_by: str | None = None

    @property
    def reusable(self) -> bool:
        """Whether the same question would be answered the same way again: not where time or a filter cut it."""
        return self.written_by is not None and self.finish_reason in (FinishReason.STOP, FinishReason.OUTPUT_LIMIT)


_IN_TURN = f"""
        SELECT id, turn FROM answers
        WHERE state = 'queued' AND due_at IS NULL AND NOT {SUSPECT}
        ORDER BY turn, id LIMIT :limit FOR UPDATE SKIP LOCKED
"""
# The order is that of turns, and the look ends where it would get long. Locked in a query of its own, so that not all
# that is looked at is locked.
_IN_TURN_BUT_FOR = f"""
        SELECT id FROM answers
        WHERE finished_at IS NULL AND holder IS NULL AND due_at IS NULL AND id = ANY(ARRAY(
            SELECT id FROM (
                SELECT id, owner, losses, interruptions FROM answers
                WHERE state = 'queued' AND due_at IS NULL ORDER BY turn, id LIMIT {MOST_PASSED_OVER}
            ) AS head
            WHERE coalesce(owner, '') <> ALL(CAST(:but_for AS text[])) AND NOT {SUSPECT}
            LIMIT :limit
        )) FOR UPDATE SKIP LOCKED
"""
_SUSPECTS = f"""
        SELECT id FROM answers
        WHERE state = 'queued' AND {SUSPECT}
          AND NOT EXISTS (SELECT FROM answers WHERE holder IS NOT NULL AND trial_until > clock_timestamp())
        ORDER BY id LIMIT :limit FOR UPDATE SKIP LOCKED
"""
# Of two that claim in the same microsecond the lesser turn may stay; the next claim puts that right.
_NOTE_TURN = """
    CROSS JOIN (
        SELECT CASE WHEN max(turn) > (SELECT last_value FROM claimed_turns) THEN setval('claimed_turns', max(turn)) END
        FROM due
    ) AS noted
"""


def _claim(due: str, note_turn: str = "", trial_until: str = "NULL") -> TextClause:
    return text(f"""
    WITH due AS ({due}    ), claimed AS (
        UPDATE answers SET state = 'in_progress', holder = :worker_id, token = nextval('claim_tokens'),
            due_at = NULL, trial_until = {trial_until},
            attempt = attempt + 1, started_at = coalesce(started_at, clock_timestamp())
        WHERE id = ANY(ARRAY(SELECT id FROM due))
          AND EXISTS (SELECT FROM workers WHERE id = :worker_id AND lease_until > clock_timestamp())
        RETURNING id AS answer_id, token, attempt, epoch, waits, interruptions, losses,
            extract(epoch FROM next_deadline - clock_timestamp())::float AS seconds_left,
            request, owner, request_id, {COUNTS}
    )
    SELECT claimed.*, CASE WHEN request IS NULL
        THEN (SELECT text FROM {first_question("claimed.answer_id")}) END AS question_text
    FROM claimed
    {note_turn}""")


_CLAIM = _claim(_IN_TURN, _NOTE_TURN)
# Turns stand still meanwhile: who is passed over stays at the head, and who begins to ask is given a turn near it.
_CLAIM_BUT_FOR = _claim(_IN_TURN_BUT_FOR)
# Of two workers that look at the same time, the second is to see what the first has claimed.
_ONE_TRIAL_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended('askmesh trial', 0))")
_CLAIM_SUSPECTS = _claim(_SUSPECTS, trial_until=f"clock_timestamp() + make_interval(secs => {TRIAL_SECONDS})")
# In progress, said so that it fits no index but the primary key.
_IF_CURRENT = "WHERE id = :answer_id AND token = :token AND finished_at IS NULL AND state <> 'queued' RETURNING id"
# The entry has what the row did not have before: nobody but the holder of its token changes the counts.
_FINISH = text(f"""
    WITH finished AS (
        UPDATE answers SET state = :state, text = :text, written_by = :written_by, finish_reason = :finish_reason,
            {SET_COUNTS},
            reusable = reusable AND :reusable AND :reuse_seconds > 0,
            reuse_until = clock_timestamp() + make_interval(secs => :reuse_seconds),
            holder = NULL, finished_at = clock_timestamp()
        {_IF_CURRENT}, owner
    )
    INSERT INTO ledger_entries (owner, {COUNTS})
    SELECT coalesce(owner, (SELECT owner FROM {first_question("finished.id")}), ''),
        {each_count("coalesce(CAST(:{0} AS integer), 0) - :booked_{0}")}
    FROM finished RETURNING owner
""")
_FAIL = text(f"""
    UPDATE answers SET state = 'failed', error_reason = :error_reason, reusable = false,
        holder = NULL, finished_at = clock_timestamp()
    {_IF_CURRENT}
""")
_RAISE_EPOCH = text(f"UPDATE answers SET epoch = epoch + 1 {_IF_CURRENT.removesuffix('id')}epoch")
_WAIT = text(f"""
    UPDATE answers SET state = 'queued', holder = NULL, waits = waits + 1,
        due_at = CASE WHEN {SUSPECT} THEN 'infinity'
            ELSE clock_timestamp() + make_interval(secs => :delay_seconds) END
    {_IF_CURRENT}
""")
_INTERRUPTED = text(f"""
    UPDATE answers SET (holder, waits, interruptions, state, due_at, error_reason, finished_at, reusable) = (
        SELECT NULL::bigint, 0, times, CASE WHEN times < {POISON_FROM} THEN 'queued' ELSE 'failed' END,
            CASE WHEN times >= {POISON_FROM} THEN NULL
                WHEN times >= {SUSPECT_FROM} OR losses >= {SUSPECT_FROM} THEN 'infinity'
                ELSE clock_timestamp() + make_interval(secs => :delay_seconds) END,
            CASE WHEN times >= {POISON_FROM} THEN 'poison' END,
            CASE WHEN times >= {POISON_FROM} THEN clock_timestamp() END,
            reusable AND times < {POISON_FROM}
        FROM (SELECT interruptions + CAST(:blamed AS boolean)::integer AS times) AS counted
    )
    {_IF_CURRENT}
""")
_ACQUIT = text(f"""
    UPDATE answers SET interruptions = 0, trial_until = CASE WHEN losses >= {SUSPECT_FROM} THEN trial_until END
    {_IF_CURRENT}
""")
_SECONDS_LEFT = text("""
    SELECT extract(epoch FROM max(deadline) - clock_timestamp())::float AS seconds FROM (
        SELECT * FROM questions WHERE answer_id = :answer_id OFFSET 0
    ) AS asked WHERE ended IS NULL
""")


async def claim(
    engine: AsyncEngine, worker_id: int, limit: int, *, suspects: bool = False, but_for: Collection[str] = ()
) -> list[Claim]:
    """Take up to ``limit`` due answers, fairest first, but none of these owners; none if the lease has run out.

    Suspects are claimed only when asked for, then of all owners and no other answers; none while another worker tries
    one.
    """
    parameters: dict[str, object] = {"worker_id": worker_id, "limit": limit}
    if not suspects:
        statement = _CLAIM_BUT_FOR if but_for else _CLAIM
        return [_claimed(dict(row)) for row in await fetch(engine, statement, parameters | {"but_for": list(but_for)})]
    async with engine.begin() as connection:
        await connection.execute(_ONE_TRIAL_AT_A_TIME)
        return [_claimed(dict(row)) for row in (await connection.execute(_CLAIM_SUSPECTS, parameters)).mappings()]


def _claimed(fields: dict[str, Any]) -> Claim:
    return Claim(spent=TokenCounts.pop_from(fields), **fields)


async def acquit(engine: AsyncEngine, claim: Claim) -> bool:
    """A suspect has gone on for longer than what breaks an engine does: its interruptions were not its own."""
    return await _write(engine, _ACQUIT, claim)


async def seconds_left(engine: AsyncEngine, claim: Claim) -> float:
    """Until the latest deadline of those who wait for the answer now; 0 if nobody does."""
    (row,) = await fetch(engine, _SECONDS_LEFT, {"answer_id": claim.answer_id})
    return max(row["seconds"] or 0.0, 0.0)


async def raise_epoch(engine: AsyncEngine, claim: Claim) -> int | None:
    """Take back the text that readers may have seen; returns the new epoch, None if the claim is not current."""
    rows = await fetch(engine, _RAISE_EPOCH, {"answer_id": claim.answer_id, "token": claim.token})
    return rows[0]["epoch"] if rows else None


async def finish(engine: AsyncEngine, claim: Claim, result: GenerationResult, reuse_seconds: float) -> bool:
    """Make the result the final answer, once: of several attempts only the current claim's is written."""
    return await _write(
        engine,
        _FINISH,
        claim,
        state=result.state,
        text=result.text,
        written_by=result.written_by,
        finish_reason=result.finish_reason,
        **booking_parameters(result.usage, claim.spent),
        # What was generated by the settings of who generated it is not known to be what the key was made for.
        reusable=result.reusable and claim.request is not None,
        reuse_seconds=reuse_seconds,
    )


async def fail(engine: AsyncEngine, claim: Claim, reason: ErrorReason) -> bool:
    """End the answer as failed: no attempt can succeed."""
    return await _write(engine, _FAIL, claim, error_reason=reason)


async def wait(engine: AsyncEngine, claim: Claim, delay_seconds: float) -> bool:
    """Queue it again, due after the delay. Not an attempt: the engine had not accepted it."""
    return await _write(engine, _WAIT, claim, delay_seconds=delay_seconds)


async def interrupted(engine: AsyncEngine, claim: Claim, delay_seconds: float, *, blamed: bool = True) -> bool:
    """Queue it again after the engine broke off, due after the delay.

    ``blamed``: it may have been the reason. At POISON_FROM such times it is set aside as failed.
    """
    return await _write(engine, _INTERRUPTED, claim, delay_seconds=delay_seconds, blamed=blamed)


async def _write(engine: AsyncEngine, statement: TextClause, claim: Claim, **parameters: object) -> bool:
    current = {"answer_id": claim.answer_id, "token": claim.token}
    return bool(await fetch(engine, statement, current | parameters))
