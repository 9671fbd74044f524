"""Reading a question, waiting for its end, and ending it."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress

from api_service.core.errors import ServiceError, question_not_found
from api_service.core.pending_tasks import PendingTasks
from api_service.core.watcher import Watcher
from foundation.postgresql.database import Database
from foundation.redis import MeshRedis
from live.answer_cache import AnswerCache
from live.signals import publish_ended
from questions import cancelling, reading
from questions.reading import Question
from questions.states import State

logger = logging.getLogger(__name__)

LeavingNoticed = Callable[[Callable[[], None]], AbstractContextManager[object]]
"""As long as the block lasts, calls what it is given when the client has gone."""

_MOST_LIVE = 10_000
_JUST_NOW_SECONDS = 1.0
LAST_LOOK_SECONDS = 5.0
"""For so long a question is read again that was waited for. PostgreSQL may hang, and who has asked must get the id."""


class QuestionReader:
    """Reads and cancels an owner's questions, and waits for their end. Its methods raise ServiceError."""

    def __init__(self, database: Database, redis: MeshRedis, watcher: Watcher, pending: PendingTasks) -> None:
        self._database = database
        self._redis = redis
        self._cache = AnswerCache(redis)
        self._watcher = watcher
        self._pending = pending
        # Questions that had not ended when they were last looked at here, with the time of that, in its order. Redis is
        # no help with them: it knows of one only if another process has read its end since.
        self._live: dict[int, tuple[float, Question]] = {}

    async def read(self, owner: str, question_id: int) -> Question:
        """The question as it is now: from Redis if it was completed, else from PostgreSQL."""
        if question_id not in self._live:
            return await self._cache.get(owner, question_id) or await self._read_from_database(owner, question_id)
        try:
            return await self._read_from_database(owner, question_id)
        except ServiceError:
            if (question := await self._cache.get(owner, question_id)) is None:
                raise
            return question

    async def wait(self, owner: str, question_id: int, seconds: float) -> Question:
        """The question as soon as it has ended, or as it is after so many seconds."""
        known = self._just_looked_at(owner, question_id) if seconds else None
        question = known or await self.read(owner, question_id)
        if question.state.is_final or not seconds:
            return question
        waited = await self._watcher.wait(question, seconds)
        if waited is None:
            raise question_not_found()
        # It may have begun since, and somebody may have been told so elsewhere.
        return waited if known is None or waited.state.is_final else await self.read(owner, question_id)

    async def wait_after_asking(
        self,
        question: Question,
        seconds: float,
        leaving_noticed: LeavingNoticed | None,
    ) -> Question:
        """The question as soon as it has ended, or as it is after so many seconds.

        Where it cannot be read then, it is as last known: whoever has asked must get its id. With ``leaving_noticed``,
        leaving cancels the question.
        """
        with self._watcher.watch(question, text=False) as watch, (leaving_noticed or nullcontext)(watch.leave):
            await watch.until(lambda: False, seconds)
            question, left = watch.question, watch.left
        if question.state.is_final:
            return question
        if left:
            await self.leave(question.owner, question.id)
        # It may have begun since, and somebody may have been told so elsewhere.
        with suppress(ServiceError, TimeoutError):
            async with asyncio.timeout(LAST_LOOK_SECONDS):
                question = await self.read(question.owner, question.id)
        return question

    async def cancel(self, owner: str, question_id: int) -> Question:
        """End the question unless it has ended, and its generation if nobody else waits for it."""
        ended = await self._database.call(cancelling.cancel, self._database.engine, owner, question_id)
        self._watcher.look_at(question_id)
        if ended is not None:
            self._pending.start(publish_ended(self._redis, [ended]))
        return await self._read_from_database(owner, question_id)

    async def leave(self, owner: str, question_id: int) -> None:
        """As ``cancel``, for one who is not there any more to be told how it went."""
        try:
            await self.cancel(owner, question_id)
        except ServiceError as error:
            logger.warning("question %d was left but not cancelled: %s", question_id, error.code)

    def note(self, question: Question) -> None:
        """Keep what the question is now, for those who wait for it right after."""
        self._live.pop(question.id, None)
        if not question.state.is_final:
            self._live[question.id] = asyncio.get_running_loop().time(), question
            if len(self._live) > _MOST_LIVE:
                del self._live[next(iter(self._live))]

    def forget(self, question_id: int) -> None:
        """Say that the question is no more."""
        self._live.pop(question_id, None)
        self._watcher.look_at(question_id)

    async def _read_from_database(self, owner: str, question_id: int) -> Question:
        question = await self._database.read(reading.read, self._database.engine, owner, question_id)
        if question is None:
            raise question_not_found()
        self.note(question)
        # An operator can replay all others, which their readers should learn at once.
        if question.state is State.COMPLETED:
            self._pending.start(self._cache.put(question))
        return question

    def _just_looked_at(self, owner: str, question_id: int) -> Question | None:
        """Who waits right after asking need not read what the question was when it was stored."""
        looked_at, question = self._live.get(question_id, (0.0, None))
        is_new = looked_at + _JUST_NOW_SECONDS > asyncio.get_running_loop().time()
        return question if is_new and question is not None and question.owner == owner else None
