"""How many questions wait, so that no more are taken than can be worked off."""

from sqlalchemy.ext.asyncio import AsyncEngine

from api_service.core.errors import ErrorCode, ServiceError
from api_service.core.sampling import every_second
from api_service.core.turns import TurnKeeper
from questions.sweeping import count_due


class Backlog:
    """Counts due answers once a second. Between two counts the limit can be passed by what one second brings."""

    def __init__(self, engine: AsyncEngine, limit: int, turns: TurnKeeper) -> None:
        self._engine = engine
        self._limit = limit
        self._turns = turns
        self._due = 0

    @property
    def is_full(self) -> bool:
        """Whether as many answers as the limit wait for a worker."""
        return self._due >= self._limit

    def refusal(self) -> ServiceError:
        """The error for a question that would need one more."""
        detail = f"{self._limit:,} questions or more wait for an answer already. Ask again later."
        retry_after = self._turns.seconds_until_shorter(self._due)
        return ServiceError(ErrorCode.BACKLOG_FULL, detail, retry_after=retry_after)

    async def watch(self) -> None:
        """Count until cancelled."""
        await every_second(self._count, "the questions that wait")

    async def _count(self) -> None:
        self._due = await count_due(self._engine, self._limit)
