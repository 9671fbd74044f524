"""Listing what an owner has asked, and erasing it."""

from functools import partial

from redis.exceptions import RedisError

from api_service.core.errors import ERASURE_UNAVAILABLE, ErrorCode, ServiceError, question_not_found
from api_service.core.pending_tasks import PendingTasks
from api_service.core.reading import QuestionReader
from foundation.postgresql.database import Database
from foundation.redis import MeshRedis
from live.answer_cache import forget
from live.signals import publish_ended, publish_erased
from questions.erasing import Erased, erase
from questions.listing import ListCursor, Page, QuestionFilter, list_questions

_RETRY_AFTER_SECONDS = 2


class QuestionHistory:
    """An owner's questions so far. Its methods raise ServiceError."""

    def __init__(self, database: Database, redis: MeshRedis, reader: QuestionReader, pending: PendingTasks) -> None:
        self._database = database
        self._redis = redis
        self._reader = reader
        self._pending = pending

    async def list(self, owner: str, filters: QuestionFilter, after: ListCursor | None, limit: int) -> Page:
        """The owner's questions after a position, newest first."""
        return await self._database.read(list_questions, self._database.autocommit, owner, filters, after, limit)

    async def erase(self, owner: str, question_id: int) -> Erased:
        """End the question and remove it for good; says what became of its answer."""
        try:
            erased = await self._database.call(
                erase, self._database.engine, owner, question_id, partial(forget, self._redis)
            )
        except RedisError as error:
            detail, seconds = ERASURE_UNAVAILABLE, _RETRY_AFTER_SECONDS
            raise ServiceError(ErrorCode.ERASURE_UNAVAILABLE, detail, retry_after=seconds) from error
        if erased is None:
            raise question_not_found()
        became, ended = erased
        self._reader.forget(question_id)
        if ended is not None:
            publish = publish_erased if became is Erased.ERASED else publish_ended
            self._pending.start(publish(self._redis, [ended]))
        return became
