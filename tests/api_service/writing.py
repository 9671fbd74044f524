"""What a worker does with the text of an answer, piece by piece, at the test's command."""

from typing import Self

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.redis import MeshRedis
from live import answer_stream
from live.answer_stream import RunningUsage, TextAppend, TextSnapshot
from owners.token_counts import TokenCounts
from questions import claims
from questions.states import ErrorReason, FinishReason, State
from tests.api_service.worker_actions import claim
from tests.questions.actors import MODEL


class Writer:
    """Holds a claim and writes its answer. ``text``: what it has written."""

    def __init__(self, engine: AsyncEngine, redis: MeshRedis, claimed: claims.Claim) -> None:
        self._engine = engine
        self._redis = redis
        self._claim = claimed
        self.answer_id = claimed.answer_id
        self.epoch = 0
        self.text = ""

    @classmethod
    async def begin(cls, engine: AsyncEngine, redis: MeshRedis, words: str) -> Self:
        """Claim the question with these words and open its text."""
        writer = cls(engine, redis, await claim(engine, words))
        await answer_stream.open_text(redis, writer.answer_id, writer._claim.token, 0, create=True)
        return writer

    async def write(self, *pieces: str) -> None:
        """Append these, one by one."""
        for piece in pieces:
            offset = len(self.text.encode())
            append = TextAppend(self.answer_id, self._claim.token, offset, piece.encode(), RunningUsage())
            (outcome,) = await answer_stream.append(self._redis, [append])
            assert isinstance(outcome, int), outcome
            self.text += piece

    async def restore(self) -> None:
        """Give Redis all of it again, as after a loss."""
        whole = TextSnapshot(self.answer_id, self._claim.token, self.epoch, self.text.encode(), RunningUsage())
        await answer_stream.put_texts(self._redis, [whole])

    async def restart(self) -> None:
        """Take back what was written."""
        self.epoch, self.text = self.epoch + 1, ""
        async with self._engine.begin() as connection:
            statement = text("UPDATE answers SET epoch = :epoch WHERE id = :id")
            await connection.execute(statement, {"epoch": self.epoch, "id": self.answer_id})
        await self.restore()

    async def complete(self, *, tell: bool = True) -> None:
        """Make what was written the answer."""
        result = claims.GenerationResult(
            State.COMPLETED,
            self.text,
            FinishReason.STOP,
            TokenCounts(prompt_tokens=38, completion_tokens=8, cached_prompt_tokens=24),
            written_by=MODEL,
        )
        assert await claims.finish(self._engine, self._claim, result, 60)
        if tell:
            await answer_stream.close_texts(self._redis, [self.answer_id])

    async def fail(self, reason: ErrorReason) -> None:
        """End it without an answer."""
        assert await claims.fail(self._engine, self._claim, reason)
        await answer_stream.close_texts(self._redis, [self.answer_id])
