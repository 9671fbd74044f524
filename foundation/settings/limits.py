"""What one owner may take."""

from pydantic import Field

from foundation.settings.base import Group


class LimitSettings(Group):
    """What one owner may take, unless its API key says otherwise. 0: no limit. docs/limits.md explains each."""

    limit_requests_per_minute: int = Field(
        0, ge=0, le=1_000_000_000, description="Questions that an owner may ask per minute; 0: no limit."
    )
    limit_tokens_per_minute: int = Field(
        0, ge=0, le=1_000_000_000_000, description="Tokens that an owner's answers may use per minute; 0: no limit."
    )
    limit_concurrent_questions: int = Field(
        0, ge=0, le=1_000_000, description="Answers of an owner that are queued or in progress; 0: no limit."
    )
    limit_queued_questions: int = Field(0, ge=0, le=1_000_000, description="Queued answers of an owner; 0: no limit.")
    limit_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Open streams and waits of an owner at one api_service process; 0: no limit.",
    )
    budget_tokens_per_day: int = Field(
        0, ge=0, le=10**15, description="Tokens that an owner's answers may use per day, in UTC; 0: no limit."
    )
    budget_tokens_per_month: int = Field(
        0, ge=0, le=10**15, description="Tokens that an owner's answers may use per month, in UTC; 0: no limit."
    )
