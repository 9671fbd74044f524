"""Limits that an API key has of its own."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

_Requests = Annotated[int | None, Field(ge=0, le=1_000_000_000)]
_Tokens = Annotated[int | None, Field(ge=0, le=10**15)]
_Places = Annotated[int | None, Field(ge=0, le=1_000_000)]


class LimitOverrides(BaseModel):
    """What replaces the settings for the callers of one key. None: the setting holds; 0: no limit.

    Kept in ``api_keys.limits``. Fields of a later release are ignored, so that two releases can share a database.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    requests_per_minute: _Requests = None
    tokens_per_minute: _Tokens = None
    concurrent_questions: _Places = None
    queued_questions: _Places = None
    streams: _Places = None
    tokens_per_day: _Tokens = None
    tokens_per_month: _Tokens = None


NO_OVERRIDES = LimitOverrides()
