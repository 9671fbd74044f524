"""Limits that an API key has of its own."""

from pydantic import BaseModel, ConfigDict


class LimitOverrides(BaseModel):
    """What replaces the settings for the callers of one key; None: the setting holds.

    Kept in ``api_keys.limits``. Fields of a later release are ignored, so that two releases can share a database.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")


NO_OVERRIDES = LimitOverrides()
