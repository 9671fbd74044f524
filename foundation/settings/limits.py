"""What one owner may take."""

from pydantic import Field

from foundation.settings.base import Group


class LimitSettings(Group):
    """What one owner may take, unless its API key says otherwise. 0: no limit. docs/limits.md explains each."""

    limit_requests_per_minute: int = Field(
        0, ge=0, le=1_000_000_000, description="Questions that an owner may ask in a minute; 0: any number."
    )
    limit_tokens_per_minute: int = Field(
        0, ge=0, le=1_000_000_000_000, description="Tokens that an owner's answers may take in a minute; 0: any number."
    )
    limit_concurrent_questions: int = Field(
        0, ge=0, le=1_000_000, description="Answers of an owner that wait or are being written; 0: any number."
    )
    limit_queued_questions: int = Field(
        0, ge=0, le=1_000_000, description="Answers of an owner that wait for a worker; 0: any number."
    )
    limit_streams: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="Streams and waits that an owner holds at one api_service process; 0: any number.",
    )
    budget_tokens_per_day: int = Field(
        0, ge=0, le=10**15, description="Tokens that an owner's answers may take on a day, in UTC; 0: any number."
    )
    budget_tokens_per_month: int = Field(
        0, ge=0, le=10**15, description="Tokens that an owner's answers may take in a month, in UTC; 0: any number."
    )
