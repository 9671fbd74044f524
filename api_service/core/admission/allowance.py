"""What a caller may take."""

from dataclasses import dataclass
from typing import Self

from foundation.settings import LimitSettings
from owners.limits import LimitOverrides


@dataclass(frozen=True, slots=True)
class Allowance:
    """The limits of one caller; 0: none."""

    requests_per_minute: int
    tokens_per_minute: int
    concurrent_questions: int
    queued_questions: int
    streams: int
    tokens_per_day: int
    tokens_per_month: int

    @classmethod
    def of(cls, settings: LimitSettings, key: LimitOverrides) -> Self:
        """The settings, where the key does not say otherwise."""
        return cls(
            requests_per_minute=_either(key.requests_per_minute, settings.limit_requests_per_minute),
            tokens_per_minute=_either(key.tokens_per_minute, settings.limit_tokens_per_minute),
            concurrent_questions=_either(key.concurrent_questions, settings.limit_concurrent_questions),
            queued_questions=_either(key.queued_questions, settings.limit_queued_questions),
            streams=_either(key.streams, settings.limit_streams),
            tokens_per_day=_either(key.tokens_per_day, settings.budget_tokens_per_day),
            tokens_per_month=_either(key.tokens_per_month, settings.budget_tokens_per_month),
        )

    @property
    def limits_tokens(self) -> bool:
        """Whether the ledger has to be looked into."""
        return bool(self.tokens_per_minute or self.tokens_per_day or self.tokens_per_month)


def _either(key: int | None, setting: int) -> int:
    return setting if key is None else key
