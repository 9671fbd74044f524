"""Limits that an API key has of its own."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int | None, Field(ge=0)]


class LimitOverrides(BaseModel):
    """What replaces the settings for the callers of one key. None: the setting holds; 0: no limit.

    Kept in ``api_keys.limits``. Fields of a later release are ignored, so that two releases can share a database.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    requests_per_minute: Count = None
    tokens_per_minute: Count = None
    concurrent_questions: Count = None
    queued_questions: Count = None
    streams: Count = None
    tokens_per_day: Count = None
    tokens_per_month: Count = None


NO_OVERRIDES = LimitOverrides()
