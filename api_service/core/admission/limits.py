"""Whether a caller may ask, and what it is told about that."""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from api_service.authentication.principal import Principal
from api_service.core.admission.allowance import Allowance
from api_service.core.admission.request_rate import RequestRate
from api_service.core.admission.spending import (
    Spending,
    SpendingReader,
    seconds_until_next_month,
    seconds_until_tomorrow,
)
from api_service.core.turns import TurnKeeper
from api_service.http.problems import Code, ProblemError
from foundation.postgresql.database import Database
from foundation.redis import MeshRedis
from foundation.settings import LimitSettings
from owners.concurrency_limit import NoRoomError, Room
from owners.limits import NO_OVERRIDES

_STREAM_RETRY_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Admission:
    """Whether a question may be asked. ``headers`` go with whatever is replied; ``room``: for its answer."""

    headers: Mapping[str, str] = field(default_factory=dict)
    refusal: ProblemError | None = None
    room: Room | None = None


FREE: Final = Admission()


class Limits:
    """The limits of all callers of this process. Where none is set, asking costs nothing more."""

    def __init__(self, settings: LimitSettings, database: Database, redis: MeshRedis, turns: TurnKeeper) -> None:
        self._settings = settings
        self._default = _or_none(Allowance.of(settings, NO_OVERRIDES))
        self._rate = RequestRate(redis)
        self._spending = SpendingReader(database.autocommit)
        self._database = database
        self._turns = turns
        self._streams: Counter[str] = Counter()

    def allowance(self, caller: Principal) -> Allowance | None:
        """What the caller may take; None: as much as it likes."""
        if caller.limits == NO_OVERRIDES:
            return self._default
        return _or_none(Allowance.of(self._settings, caller.limits))

    async def admit(self, caller: Principal) -> Admission:
        """Take a request from what the caller has left, unless it may not ask: then nothing is taken.

        Raises ProblemError where PostgreSQL does not answer.
        """
        if (allowance := self.allowance(caller)) is None:
            return FREE
        headers: dict[str, str] = {}
        refusal = None
        if allowance.limits_tokens:
            spending = await self._database.read(self._spending.of, caller.tenant)
            refusal = _token_refusal(spending, allowance, headers)
        if refusal is None and (limit := allowance.requests_per_minute):
            refusal = await self._take_request(caller, limit, headers)
        room = Room(allowance.queued_questions, allowance.concurrent_questions)
        return Admission(headers, refusal, room or None)

    async def give_back(self, caller: Principal) -> None:
        """The request was a repetition of one that was counted."""
        if (allowance := self.allowance(caller)) is not None and (limit := allowance.requests_per_minute):
            await self._rate.take(_bucket(caller), limit, -1)

    def no_room(self, error: NoRoomError) -> ProblemError:
        """What a caller is told who has too many questions."""
        what = "wait for a worker" if error.what == "queued" else "wait or are being answered"
        detail = (
            f"{error.count:,} of your questions {what}, of at most {error.limit:,}. Ask again when some have ended."
        )
        headers = {"Retry-After": str(self._turns.seconds_until_shorter(error.count))}
        return ProblemError(Code.TOO_MANY_QUESTIONS, detail, headers=headers)

    @contextmanager
    def stream(self, caller: Principal) -> Iterator[None]:
        """Hold a stream or a wait for as long as the block lasts.

        Raises a 429 ProblemError if the caller holds as many here as it may.
        """
        allowance = self.allowance(caller)
        if allowance is not None and allowance.streams and self._streams[caller.tenant] >= allowance.streams:
            detail = f"You hold {allowance.streams:,} streams and waits here, which is the most. End one first."
            headers = {"Retry-After": str(_STREAM_RETRY_SECONDS)}
            raise ProblemError(Code.TOO_MANY_STREAMS, detail, headers=headers)
        self._streams[caller.tenant] += 1
        try:
            yield
        finally:
            self._streams[caller.tenant] -= 1
            if not self._streams[caller.tenant]:
                del self._streams[caller.tenant]

    async def _take_request(self, caller: Principal, limit: int, headers: dict[str, str]) -> ProblemError | None:
        taken = await self._rate.take(_bucket(caller), limit)
        headers["x-ratelimit-limit-requests"] = str(limit)
        headers["x-ratelimit-remaining-requests"] = str(taken.remaining)
        headers["x-ratelimit-reset-requests"] = duration(taken.reset)
        if taken.allowed:
            return None
        detail = f"You may ask {limit:,} questions a minute. Ask again later."
        return _refused(Code.RATE_LIMITED, detail, taken.retry_after, headers)


def _token_refusal(spending: Spending, allowance: Allowance, headers: dict[str, str]) -> ProblemError | None:
    if limit := allowance.tokens_per_minute:
        minute = spending.minute(limit)
        headers["x-ratelimit-limit-tokens"] = str(limit)
        headers["x-ratelimit-remaining-tokens"] = str(max(limit - minute.used, 0))
        headers["x-ratelimit-reset-tokens"] = duration(minute.reset)
        if minute.used >= limit:
            detail = (
                f"Your answers have taken {minute.used:,} tokens in the last minute, of {limit:,}. Ask again later."
            )
            return _refused(Code.RATE_LIMITED, detail, minute.retry_after, headers)
    budget = spending.budget
    if (limit := allowance.tokens_per_month) and budget.month >= limit:
        detail = f"Your answers have taken {budget.month:,} tokens this month, of {limit:,}. The next begins in UTC."
        return _refused(Code.BUDGET_SPENT, detail, seconds_until_next_month(), headers)
    if (limit := allowance.tokens_per_day) and budget.day >= limit:
        detail = f"Your answers have taken {budget.day:,} tokens today, of {limit:,}. The next day begins in UTC."
        return _refused(Code.BUDGET_SPENT, detail, seconds_until_tomorrow(), headers)
    return None


def _refused(code: Code, detail: str, seconds: float, headers: Mapping[str, str]) -> ProblemError:
    return ProblemError(code, detail, headers={**headers, "Retry-After": str(max(math.ceil(seconds), 1))})


def _bucket(caller: Principal) -> str:
    # A key with a rate of its own is counted by itself: its limit says nothing about the owner's other keys.
    if caller.key_id is not None and caller.limits.requests_per_minute is not None:
        return f"key {caller.key_id}"
    return f"owner {caller.tenant}"


def _or_none(allowance: Allowance) -> Allowance | None:
    return None if allowance == Allowance(0, 0, 0, 0, 0, 0, 0) else allowance


def duration(seconds: float) -> str:
    """As OpenAI writes it: 17ms, 1.5s, 6m0s."""
    milliseconds = math.ceil(seconds * 1_000)
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    return f"{minutes}m{rest / 1_000:g}s" if minutes else f"{rest / 1_000:g}s"
