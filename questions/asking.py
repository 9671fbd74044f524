"""Taking a question: one committed row, joined to an answer that may already exist."""

from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from questions.room import NoRoomError, Room, refusal
from questions.states import LIVE, State
from questions.turns import Priority

MAX_ID = 2**53 - 1
"""Largest id: the largest integer that every JSON reader keeps exact (RFC 8259, section 6)."""


@dataclass(frozen=True, slots=True)
class Ask:
    """A validated question. ``max_wait_seconds`` from now on it expires."""

    owner: str
    text: str
    language: str
    answer_key: bytes
    model: str
    max_wait_seconds: float
    fresh: bool = False
    """Neither share a generation nor reuse an answer."""
    idempotency_key_hash: bytes | None = None
    request_hash: bytes | None = None
    turn: int = 0
    """When it is to be claimed, if it needs an answer of its own."""
    priority: Priority = Priority.NORMAL
    room: Room | None = None
    """None: the owner may have any number of answers that are not final."""


class Source(StrEnum):
    """Where the answer to an accepted question comes from."""

    NEW = "new"
    COALESCED = "coalesced"
    CACHED = "cached"


@dataclass(frozen=True, slots=True)
class Accepted:
    """A committed question. ``replayed``: it was accepted before under the same Idempotency-Key, and is not new now."""

    question_id: int
    source: Source | None
    replayed: bool = False


class IdempotencyKeyReusedError(Exception):
    """The owner used this Idempotency-Key before, with another body."""


_CLEAR = text("UPDATE answers SET reusable = false WHERE answer_key = :answer_key AND reusable")
_CLEAR_STALE = text(f"{_CLEAR.text} AND reuse_until <= clock_timestamp()")
_FIND_REPLAY = text("""
    SELECT id, request_hash FROM questions WHERE owner = :owner AND idempotency_key_hash = :idempotency_key_hash
""")
_QUESTION_COLUMNS = "owner, text, language, idempotency_key_hash, request_hash, answer_id, deadline"
# Each parameter is cast because asyncpg cannot tell the type of one that is only selected.
_QUESTION_VALUES = """
    CAST(:owner AS text), CAST(:text AS text), CAST(:language AS text),
    CAST(:idempotency_key_hash AS bytea), CAST(:request_hash AS bytea)
"""
_UNLESS_REPLAYED = """
    ON CONFLICT (owner, idempotency_key_hash) WHERE idempotency_key_hash IS NOT NULL DO NOTHING RETURNING id
"""
_BOOK_REQUEST = """
    booked AS (INSERT INTO ledger_entries (owner, requests) SELECT CAST(:owner AS text), 1 FROM question)
"""
# One statement and one round trip for a question that nobody asked before.
_INSERT_BOTH = text(f"""
    WITH answer AS (
        INSERT INTO answers (answer_key, reusable, model, owner, priority, turn, next_deadline)
        VALUES (
            :answer_key, true, :model, :owner, :priority, :turn,
            clock_timestamp() + make_interval(secs => :max_wait_seconds)
        )
        ON CONFLICT (answer_key) WHERE reusable DO NOTHING
        RETURNING id, next_deadline
    ), question AS (
        INSERT INTO questions ({_QUESTION_COLUMNS})
        SELECT {_QUESTION_VALUES}, answer.id, answer.next_deadline FROM answer
        {_UNLESS_REPLAYED}
    ), {_BOOK_REQUEST}
    SELECT id FROM question
""")
# FOR KEY SHARE waits for a cancel or an expiry (FOR UPDATE) and then checks the row again, but neither waits
# for a claim or a final write nor holds one up.
_LOCK_ANSWER = text("""
    SELECT id, state, turn FROM answers
    WHERE answer_key = :answer_key AND reusable AND (reuse_until IS NULL OR reuse_until > clock_timestamp())
    FOR KEY SHARE
""")
_INSERT_QUESTION = text(f"""
    WITH question AS (
        INSERT INTO questions ({_QUESTION_COLUMNS})
        SELECT {_QUESTION_VALUES}, CAST(:answer_id AS bigint),
            clock_timestamp() + make_interval(secs => :max_wait_seconds)
        {_UNLESS_REPLAYED}, deadline
    ), {_BOOK_REQUEST}
    SELECT id, deadline FROM question
""")
_BRING_DEADLINE_FORWARD = text("""
    UPDATE answers SET next_deadline = :deadline
    WHERE id = :answer_id AND next_deadline > :deadline AND state IN ('queued', 'in_progress')
""")
_BRING_TURN_FORWARD = text("""
    UPDATE answers SET turn = :turn WHERE id = :answer_id AND turn > :turn AND state = 'queued'
""")


async def accept(engine: AsyncEngine, ask: Ask) -> Accepted:
    """Commit the question and return its id; where possible join it to an answer with the same key.

    Raises IdempotencyKeyReusedError and NoRoomError.
    """
    parameters = {
        "owner": ask.owner,
        "text": ask.text,
        "language": ask.language,
        "answer_key": ask.answer_key,
        "model": ask.model,
        "max_wait_seconds": ask.max_wait_seconds,
        "idempotency_key_hash": ask.idempotency_key_hash,
        "request_hash": ask.request_hash,
        "turn": ask.turn,
        "priority": ask.priority,
    }
    # A round is repeated only when another transaction took or gave up the same key in between.
    while True:
        async with engine.connect() as connection:
            accepted = await _try(connection, ask, parameters)
            if accepted is not None:
                return accepted


async def _try(connection: AsyncConnection, ask: Ask, parameters: dict[str, object]) -> Accepted | None:
    if (replay := await _find_replay(connection, ask)) is not None:
        return replay
    if ask.room and (no_room := await refusal(connection, ask.owner, ask.room)) is not None:
        return await _join_only(connection, ask, parameters, no_room)
    if ask.fresh:
        await connection.execute(_CLEAR, parameters)

    question = (await connection.execute(_INSERT_BOTH, parameters)).one_or_none()
    if question is not None:
        await connection.commit()
        return Accepted(question.id, Source.NEW)
    # Leaving without a commit takes back the answer that the statement may have made.
    if (replay := await _find_replay(connection, ask)) is not None:
        return replay
    return None if ask.fresh else await _join(connection, parameters)


async def _join_only(
    connection: AsyncConnection, ask: Ask, parameters: dict[str, object], no_room: NoRoomError
) -> Accepted:
    accepted = None if ask.fresh else await _join(connection, parameters)
    if accepted is None:
        raise no_room
    return accepted


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


async def _join(connection: AsyncConnection, parameters: dict[str, object]) -> Accepted | None:
    answer = (await connection.execute(_LOCK_ANSWER, parameters)).one_or_none()
    if answer is None:
        await connection.execute(_CLEAR_STALE, parameters)
        await connection.commit()
        return None
    question = (await connection.execute(_INSERT_QUESTION, parameters | {"answer_id": answer.id})).one_or_none()
    if question is None:
        return None
    live = State(answer.state) in LIVE
    if live:
        await connection.execute(_BRING_DEADLINE_FORWARD, {"answer_id": answer.id, "deadline": question.deadline})
    if answer.state == State.QUEUED and answer.turn > parameters["turn"]:
        await connection.execute(_BRING_TURN_FORWARD, {"answer_id": answer.id, "turn": parameters["turn"]})
    await connection.commit()
    return Accepted(question.id, Source.COALESCED if live else Source.CACHED)
