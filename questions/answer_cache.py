"""Answered questions in Redis, so that reading them again costs PostgreSQL nothing. Redis may forget any of them."""

import logging
from datetime import datetime
from typing import Any

import orjson
from redis.asyncio import Redis
from redis.exceptions import RedisError

from questions.reading import Question
from questions.states import ErrorReason, FinishReason, State

logger = logging.getLogger(__name__)

_SECONDS = 3_600


class AnswerCache:
    """Keeps a completed question for an hour after it was stored. Without Redis every look-up is a miss.

    Other final questions are rare, and an operator can ask them again: they are read from PostgreSQL.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis
        self.reachable = True
        """False while Redis does not answer."""

    async def get(self, owner: str, question_id: int) -> Question | None:
        """The owner's question if Redis has it."""
        try:
            stored = await self._redis.get(_key(question_id))
        except (RedisError, OSError) as error:
            self._note(reachable=False, error=error)
            return None
        self._note(reachable=True)
        question = _decode(stored) if stored else None
        return question if question and question.owner == owner else None

    async def put(self, question: Question) -> None:
        """Store the question if it is completed."""
        if question.state is not State.COMPLETED:
            return
        try:
            # Not over what is there, which is the same, or says that the question was erased since it was read.
            await self._redis.set(_key(question.id), orjson.dumps(question), ex=_SECONDS, nx=True)
        except (RedisError, OSError) as error:
            self._note(reachable=False, error=error)

    def _note(self, *, reachable: bool, error: Exception | None = None) -> None:
        if reachable != self.reachable:
            self.reachable = reachable
            if reachable:
                logger.info("Redis answers again")
            else:
                logger.warning("Redis does not answer (%s): answers are read from PostgreSQL", type(error).__name__)


async def forget(redis: Redis, question_id: int) -> None:
    """Drop a question that is erased, and take it no more from readers who had read it before. Raises RedisError."""
    await redis.set(_key(question_id), b"", ex=_SECONDS)


def _key(question_id: int) -> str:
    # Another name for each shape, so that processes of two releases can share one Redis.
    return f"askmesh:question:2:{question_id}"


def _decode(stored: bytes | str) -> Question:
    fields: dict[str, Any] = orjson.loads(stored)
    return Question(
        **fields
        | {
            "state": State(fields["state"]),
            "finish_reason": fields["finish_reason"] and FinishReason(fields["finish_reason"]),
            "error_reason": fields["error_reason"] and ErrorReason(fields["error_reason"]),
            "created_at": datetime.fromisoformat(fields["created_at"]),
            "finished_at": datetime.fromisoformat(fields["finished_at"]),
        }
    )
