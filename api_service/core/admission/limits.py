"""Whether a caller may ask, and what it is told about that."""

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from api_service.core.admission.allowance import Allowance
from api_service.core.admission.request_rate import RequestRate
from api_service.core.admission.spending import (
    Spending,
    SpendingReader,
    seconds_until_next_month,
    seconds_until_tomorrow,
)
from api_service.core.errors import UNLIMITED, ErrorCode, RateLimit, RateLimits, ServiceError
from api_service.core.principal import Principal
from api_service.core.turns import TurnKeeper
from foundation.postgresql.database import Database
from foundation.redis import MeshRedis
from foundation.settings import LimitSettings
from owners.concurrency_limit import ConcurrencyLimit, ConcurrencyLimitError
from owners.limits import NO_OVERRIDES

_STREAM_RETRY_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class AdmissionDecision:
    """Whether a question may be asked. ``rate_limits`` go with any reply, ``concurrency_limit`` is for its answer."""

    rate_limits: RateLimits = UNLIMITED
    refusal: ServiceError | None = None
    concurrency_limit: ConcurrencyLimit | None = None


FREE: Final = AdmissionDecision()


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

    async def admit(self, caller: Principal) -> AdmissionDecision:
        """Take a request from what the caller has left, unless it may not ask: then nothing is taken.

        Raises ServiceError where PostgreSQL does not answer.
        """
        if (allowance := self.allowance(caller)) is None:
            return FREE
        rate_limits, refusal = UNLIMITED, None
        if allowance.limits_tokens:
            spending = await self._database.read(self._spending.of, caller.tenant)
            rate_limits, refusal = _check_tokens(spending, allowance)
        if refusal is None and (limit := allowance.requests_per_minute):
            rate_limits, refusal = await self._take_request(caller, limit, rate_limits)
        concurrency_limit = ConcurrencyLimit(allowance.queued_questions, allowance.concurrent_questions)
        return AdmissionDecision(rate_limits, refusal, concurrency_limit or None)

    async def give_back(self, caller: Principal) -> None:
        """The request was a repetition of one that was counted."""
        if (allowance := self.allowance(caller)) is not None and (limit := allowance.requests_per_minute):
            await self._rate.take(_bucket(caller), limit, -1)

    def over_concurrency_limit(self, error: ConcurrencyLimitError) -> ServiceError:
        """What a caller is told who has too many questions."""
        what = "are queued" if error.what == "queued" else "are queued or in progress"
        detail = (
            f"{error.count:,} of your questions {what}; the limit is {error.limit:,}. Ask again when some have ended."
        )
        retry_after = self._turns.seconds_until_shorter(error.count)
        return ServiceError(ErrorCode.TOO_MANY_QUESTIONS, detail, retry_after=retry_after)

    @contextmanager
    def stream(self, caller: Principal) -> Iterator[None]:
        """Hold a stream or a wait for as long as the block lasts.

        Raises ServiceError if the caller holds as many here as it may.
        """
        allowance = self.allowance(caller)
        if allowance is not None and allowance.streams and self._streams[caller.tenant] >= allowance.streams:
            detail = f"You have {allowance.streams:,} open streams and waits here, which is the limit. End one first."
            raise ServiceError(ErrorCode.TOO_MANY_STREAMS, detail, retry_after=_STREAM_RETRY_SECONDS)
        self._streams[caller.tenant] += 1
        try:
            yield
        finally:
            self._streams[caller.tenant] -= 1
            if not self._streams[caller.tenant]:
                del self._streams[caller.tenant]

    async def _take_request(
        self, caller: Principal, limit: int, rate_limits: RateLimits
    ) -> tuple[RateLimits, ServiceError | None]:
        taken = await self._rate.take(_bucket(caller), limit)
        rate_limits = replace(rate_limits, requests=RateLimit(limit, taken.remaining, taken.reset))
        if taken.allowed:
            return rate_limits, None
        detail = f"You may ask {limit:,} questions per minute. Ask again later."
        return rate_limits, _refused(ErrorCode.RATE_LIMITED, detail, taken.retry_after, rate_limits)


def _check_tokens(spending: Spending, allowance: Allowance) -> tuple[RateLimits, ServiceError | None]:
    rate_limits = UNLIMITED
    if limit := allowance.tokens_per_minute:
        minute = spending.minute(limit)
        rate_limits = RateLimits(tokens=RateLimit(limit, max(limit - minute.used, 0), minute.reset))
        if minute.used >= limit:
            detail = f"Your answers used {minute.used:,} of {limit:,} tokens in the last minute. Ask again later."
            return rate_limits, _refused(ErrorCode.RATE_LIMITED, detail, minute.retry_after, rate_limits)
    return rate_limits, _check_budgets(spending, allowance, rate_limits)


def _check_budgets(spending: Spending, allowance: Allowance, rate_limits: RateLimits) -> ServiceError | None:
    budget = spending.budget
    if (limit := allowance.tokens_per_month) and budget.month >= limit:
        detail = f"Your answers used {budget.month:,} of {limit:,} tokens this month. The next month begins in UTC."
        return _refused(ErrorCode.BUDGET_SPENT, detail, seconds_until_next_month(), rate_limits)
    if (limit := allowance.tokens_per_day) and budget.day >= limit:
        detail = f"Your answers used {budget.day:,} of {limit:,} tokens today. The next day begins in UTC."
        return _refused(ErrorCode.BUDGET_SPENT, detail, seconds_until_tomorrow(), rate_limits)
    return None


def _refused(code: ErrorCode, detail: str, seconds: float, rate_limits: RateLimits) -> ServiceError:
    return ServiceError(code, detail, retry_after=max(math.ceil(seconds), 1), rate_limits=rate_limits)


def _bucket(caller: Principal) -> str:
    # A key with a rate of its own is counted by itself: its limit says nothing about the owner's other keys.
    if caller.key_id is not None and caller.limits.requests_per_minute is not None:
        return f"key {caller.key_id}"
    return f"owner {caller.tenant}"


def _or_none(allowance: Allowance) -> Allowance | None:
    return None if allowance == Allowance(0, 0, 0, 0, 0, 0, 0) else allowance
