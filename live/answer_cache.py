"""Answered questions in Redis, so that reading them again costs PostgreSQL nothing. Redis may forget any of them."""

from dataclasses import fields
from datetime import datetime
from typing import Any, Final

import orjson
from redis.exceptions import RedisError, ResponseError

from foundation.redis import MeshRedis
from live.answer_stream import drop_texts
from owners.token_counts import TOKEN_COLUMNS, TokenCounts
from questions.reading import Question
from questions.states import ErrorReason, FinishReason, State

_SECONDS = 3_600
_KIND = "a copy of an answer"


class AnswerCache:
    """Keeps a completed question for an hour after it was stored. Without Redis every look-up is a miss.

    Other final questions are rare, and an operator can ask them again: they are read from PostgreSQL.
    """

    def __init__(self, redis: MeshRedis) -> None:
        self._redis = redis

    async def get(self, owner: str, question_id: int) -> Question | None:
        """The owner's question if Redis has it, and this release can read it."""
        try:
            stored = await self._get(_key(self._redis, question_id))
        except (RedisError, OSError) as error:
            self._redis.mesh.note(error)
            return None
        self._redis.mesh.outage.succeeded()
        question = self._decode(stored) if stored else None
        return question if question and question.owner == owner else None

    async def put(self, question: Question) -> None:
        """Store the question if it is completed."""
        if question.state is not State.COMPLETED:
            return
        try:
            # Not over what is there, which is the same, or says that the question was erased since it was read.
            await self._redis.set(_key(self._redis, question.id), _encode(question), ex=_SECONDS, nx=True)
        except (RedisError, OSError) as error:
            self._redis.mesh.note(error)

    async def _get(self, key: str) -> bytes | str | None:
        try:
            stored: bytes | str | None = await self._redis.get(key)
        except ResponseError as error:
            if not await self._redis.drop_rubbish(key, _KIND, error):
                raise
            return None
        return stored

    def _decode(self, stored: bytes | str) -> Question | None:
        try:
            return _decode(stored)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            self._redis.mesh.unreadable.skip(_KIND, error)
            return None


async def forget(redis: MeshRedis, question_id: int, answer_id: int | None = None) -> None:
    """Drop a question that is erased, and take it no more from readers who had read it before.

    ``answer_id``: of the answer that is erased with it, whose text is dropped too. Raises RedisError.
    """
    await redis.set(_key(redis, question_id), b"", ex=_SECONDS)
    if answer_id is not None:
        await drop_texts(redis, [answer_id])


def _key(redis: MeshRedis, question_id: int) -> str:
    # Another name for each shape, so that processes of two releases can share one Redis.
    return redis.name("question", 2, question_id)


_FIELDS: Final = tuple(field.name for field in fields(Question) if field.name != "usage")
# The release that first wrote this shape reads no further field.
_COUNTS: Final = tuple(name for name in TOKEN_COLUMNS if name != "repeated_tokens")


def _encode(question: Question) -> bytes:
    counts = {name: getattr(question.usage, name) for name in _COUNTS}
    return orjson.dumps({name: getattr(question, name) for name in _FIELDS} | counts)


def _decode(stored: bytes | str) -> Question:
    """A copy that some release has stored. What this one does not know is left out."""
    copy: dict[str, Any] = orjson.loads(stored)
    known = {name: copy[name] for name in _FIELDS if name in copy}
    return Question(
        usage=TokenCounts.parse(copy),
        **known
        | {
            "state": State(copy["state"]),
            "finish_reason": copy["finish_reason"] and FinishReason(copy["finish_reason"]),
            "error_reason": copy["error_reason"] and ErrorReason(copy["error_reason"]),
            "created_at": datetime.fromisoformat(copy["created_at"]),
            "finished_at": datetime.fromisoformat(copy["finished_at"]),
        },
    )
