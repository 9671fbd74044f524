"""Taking a question: one committed row, joined to an answer that may already exist."""

import asyncio
import random
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from foundation.postgresql.database import fetch
from models.identity import UNKNOWN
from owners.concurrency_limit import ConcurrencyLimit, ConcurrencyLimitBusyError, refusal
from owners.priority import Priority
from owners.token_counts import TokenCounts, each_count
from questions.reading import Question
from questions.sql import COUNTS
from questions.states import LIVE, FinishReason, State

MAX_ID = 2**53 - 1
"""Largest id: the largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""

_FIRST_PAUSE_SECONDS: Final = 0.005
_LONGEST_PAUSE_SECONDS: Final = 0.1
_PATIENCE_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated question. ``max_wait_seconds`` from now on it expires."""

    owner: str
    text: str
    language: str
    answer_key: bytes
    model: str
    max_wait_seconds: float
    request: bytes | None = None
    """GenerationSpec, serialised. None: whoever generates the answer makes it of the text, by its own settings."""
    identity: str = UNKNOWN
    """Of the model that the key was made for: a finished answer of another one is not reused."""
    reuse_seconds: float = 0
    """For how long a finished answer is reused, if it was not finished under a shorter time."""
    fresh: bool = False
    """Neither share a generation nor reuse an answer."""
    idempotency_key_hash: bytes | None = None
    request_hash: bytes | None = None
    turn: int = 0
    """When it is to be claimed, if it needs an answer of its own."""
    priority: Priority = Priority.NORMAL
    request_id: str | None = None
    """X-Request-ID of the request by which it came, for logs and operators."""
    concurrency_limit: ConcurrencyLimit | None = None
    """None: the owner may have any number of answers that are not final."""
    join_only: bool = False
    """No answer is made: the question shares or reuses one that is there, or is a repetition."""


class Source(StrEnum):
    """Where the answer to an accepted question comes from."""

    NEW = "new"
    COALESCED = "coalesced"
    CACHED = "cached"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A committed question. ``replayed``: it was accepted before under the same Idempotency-Key, and is not new now.

    ``question``: its state when it was committed; None where it was replayed.
    """

    question_id: int
    source: Source | None
    replayed: bool = False
    question: Question | None = None


class NothingToJoinError(Exception):
    """The question would need an answer of its own, and was to be asked only without."""


class IdempotencyKeyReusedError(Exception):
    """The owner used this Idempotency-Key before, with another body."""


# A finished answer that has its key and is not reused all the same: its time is over, by the setting of when it was
# finished or by that of now; or another model has written it than the key names, or a worker that does not say which.
# Not "reuse_until <= …", for which the index of all that can be reused would do as well.
_STALE = """
    (finished_at IS NOT NULL AND (written_by IS DISTINCT FROM CAST(:identity AS text)
        OR coalesce(reuse_until, 'infinity') <= clock_timestamp()
        OR finished_at <= clock_timestamp() - make_interval(secs => :reuse_seconds)))
"""
_CLEAR = text("UPDATE answers SET reusable = false WHERE answer_key = :answer_key AND reusable")
_CLEAR_STALE = text(f"{_CLEAR.text} AND {_STALE}")
_FIND_REPLAY = text("""
    SELECT id, request_hash FROM questions WHERE owner = :owner AND idempotency_key_hash = :idempotency_key_hash
""")
# Joins the answer with this key, else makes one, in one round trip. No row: another transaction took or gave up the key
# at this moment, a stale answer still has it, or the Idempotency-Key is used. In the last case an answer may have been
# made in vain, and must be taken back, or it would be generated for nobody.
#
# FOR KEY SHARE waits for a cancel or an expiry (FOR UPDATE) and then checks the row again, but neither waits for a
# claim or a final write nor holds one up. Parameters that are only selected are cast: asyncpg cannot tell their type.
_ASK = text(f"""
    WITH known AS (
        SELECT id, state, epoch, text, written_by, finish_reason, finished_at, next_deadline, turn,
            {COUNTS}
        FROM answers
        WHERE answer_key = :answer_key AND reusable AND NOT {_STALE} AND NOT CAST(:fresh AS boolean)
        FOR KEY SHARE
    ), new AS (
        INSERT INTO answers (answer_key, reusable, model, request, owner, request_id, priority, turn, next_deadline)
        SELECT :answer_key, true, CAST(:model AS text), CAST(:request AS bytea), CAST(:owner AS text),
            CAST(:request_id AS text),
            CAST(:priority AS text), CAST(:turn AS bigint), clock_timestamp() + make_interval(secs => :max_wait_seconds)
        WHERE NOT EXISTS (SELECT FROM known) AND NOT CAST(:join_only AS boolean)
        ON CONFLICT (answer_key) WHERE reusable DO NOTHING
        RETURNING id, next_deadline
    ), question AS (
        INSERT INTO questions (
            owner, text, language, request_id, idempotency_key_hash, request_hash, answer_id, deadline
        )
        SELECT CAST(:owner AS text), CAST(:text AS text), CAST(:language AS text),
            CAST(:request_id AS text), CAST(:idempotency_key_hash AS bytea), CAST(:request_hash AS bytea), answer.id,
            coalesce(next_deadline, clock_timestamp() + make_interval(secs => :max_wait_seconds))
        FROM (SELECT id, NULL AS next_deadline FROM known UNION ALL SELECT id, next_deadline FROM new) answer
        ON CONFLICT (owner, idempotency_key_hash) WHERE idempotency_key_hash IS NOT NULL DO NOTHING
        RETURNING id, answer_id, created_at, deadline
    ), brought_forward AS (
        UPDATE answers SET next_deadline = least(next_deadline, (SELECT deadline FROM question)),
            turn = CASE state WHEN 'queued' THEN least(turn, CAST(:turn AS bigint)) ELSE turn END
        WHERE finished_at IS NULL AND id = (
            SELECT known.id FROM known JOIN question ON question.answer_id = known.id
            WHERE known.next_deadline > question.deadline
                OR known.state = 'queued' AND known.turn > CAST(:turn AS bigint)
        )
    ), booked AS (
        INSERT INTO ledger_entries (owner, requests) SELECT CAST(:owner AS text), 1 FROM question
    )
    SELECT question.id, question.answer_id, question.created_at, known.state, known.epoch, known.text,
        known.written_by, known.finish_reason, known.finished_at, {each_count("known.{0}")}
    FROM question LEFT JOIN known ON known.id = question.answer_id
""")


async def accept(engine: AsyncEngine, ask: Ask) -> Accepted:
    """Commit the question and return its id; where possible join it to an answer with the same key.

    Raises IdempotencyKeyReusedError, ConcurrencyLimitError and NothingToJoinError. Raises TimeoutError where others of
    the owner, which are being counted, keep it waiting for 10 s.
    """
    parameters: dict[str, object] = {
        "owner": ask.owner,
        "text": ask.text,
        "language": ask.language,
        "answer_key": ask.answer_key,
        "model": ask.model,
        "request": ask.request,
        "identity": ask.identity,
        "reuse_seconds": float(ask.reuse_seconds),
        "max_wait_seconds": ask.max_wait_seconds,
        "fresh": ask.fresh,
        "idempotency_key_hash": ask.idempotency_key_hash,
        "request_hash": ask.request_hash,
        "turn": ask.turn,
        "priority": ask.priority,
        "request_id": ask.request_id,
        "join_only": ask.join_only,
    }
    in_one_statement = not ask.fresh and not ask.concurrency_limit and ask.idempotency_key_hash is None
    pauses = _pauses()
    while True:
        if in_one_statement:
            rows = await fetch(engine, _ASK, parameters)
            accepted = _accepted(ask, dict(rows[0])) if rows else None
        else:
            try:
                async with engine.connect() as connection:
                    accepted = await _ask_in_transaction(connection, ask, parameters)
            except ConcurrencyLimitBusyError:
                await asyncio.sleep(next(pauses))  # without a connection
                continue
        if accepted is not None:
            return accepted
        if ask.join_only:
            raise NothingToJoinError
        # Another transaction took or gave up the key meanwhile, or a stale answer still has it.
        await fetch(engine, _CLEAR_STALE, parameters)


def _pauses() -> Iterator[float]:
    """From one try to the next, 10 s in all. Raises TimeoutError."""
    pause, left = _FIRST_PAUSE_SECONDS, _PATIENCE_SECONDS
    while left > 0:
        jittered = pause * random.uniform(0.5, 1.0)  # noqa: S311 - no secret
        yield jittered
        left -= jittered
        pause = min(pause * 1.5, _LONGEST_PAUSE_SECONDS)
    raise TimeoutError


async def _ask_in_transaction(connection: AsyncConnection, ask: Ask, parameters: dict[str, object]) -> Accepted | None:
    if (replay := await _find_replay(connection, ask)) is not None:
        return replay
    refused: Exception | None = NothingToJoinError() if ask.join_only else None
    if refused is None and ask.concurrency_limit:
        refused = await refusal(connection, ask.owner, ask.concurrency_limit)
    if refused is not None:
        if ask.fresh:
            raise refused
        parameters = parameters | {"join_only": True}
    if ask.fresh:
        await connection.execute(_CLEAR, parameters)
    question = (await connection.execute(_ASK, parameters)).one_or_none()
    if question is not None:
        await connection.commit()
        return _accepted(ask, question._asdict())
    # Leaving without a commit takes back the answer that the statement may have made.
    replay = await _find_replay(connection, ask)
    if replay is None and refused is not None:
        raise refused
    return replay


async def find_replay(engine: AsyncEngine, ask: Ask) -> Accepted | None:
    """The question that was asked under this Idempotency-Key before, if any. Raises IdempotencyKeyReusedError."""
    async with engine.connect() as connection:
        return await _find_replay(connection, ask)


async def _find_replay(connection: AsyncConnection, ask: Ask) -> Accepted | None:
    if ask.idempotency_key_hash is None:
        return None
    parameters = {"owner": ask.owner, "idempotency_key_hash": ask.idempotency_key_hash}
    replay = (await connection.execute(_FIND_REPLAY, parameters)).one_or_none()
    if replay is None:
        return None
    if replay.request_hash != ask.request_hash:
        raise IdempotencyKeyReusedError
    return Accepted(replay.id, None, replayed=True)


def _accepted(ask: Ask, row: dict[str, Any]) -> Accepted:
    joined = row["state"] is not None
    state = State(row["state"]) if joined else State.QUEUED
    question = Question(
        id=row["id"],
        answer_id=row["answer_id"],
        owner=ask.owner,
        language=ask.language,
        state=state,
        epoch=row["epoch"] or 0,
        text=row["text"],
        written_by=row["written_by"],
        finish_reason=row["finish_reason"] and FinishReason(row["finish_reason"]),
        error_reason=None,  # what has failed is joined by nobody
        usage=TokenCounts.pop_from(row),
        created_at=row["created_at"],
        finished_at=row["finished_at"],
        replayed_as=None,
    )
    source = Source.NEW if not joined else Source.COALESCED if state in LIVE else Source.CACHED
    return Accepted(question.id, source, question=question)
