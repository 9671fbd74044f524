"""The bodies of responses."""

from datetime import date
from typing import Any, Self

from pydantic import BaseModel, Field

from owners.ledger import UsageTotals


class Tokens(BaseModel):
    """What was spent. `cached_prompt_tokens` are among `prompt_tokens`."""

    requests: int = Field(description="Questions, those among them that shared an answer or got an earlier one.")
    prompt_tokens: int = Field(description="As the model server counted; an answer's are its first asker's.")
    completion_tokens: int
    cached_prompt_tokens: int
    repeated_tokens: int = Field(description="Read or written again because an attempt broke off; in no other count.")
    total_tokens: int = Field(description="What limits and budgets count: prompt, completion and repeated.")

    @classmethod
    def of(cls, totals: UsageTotals, **more: Any) -> Self:
        """From the ledger."""
        return cls(requests=totals.requests, **totals.by_column(), total_tokens=totals.total_tokens, **more)


class Day(Tokens):
    """A day in UTC."""

    day: date


class Budgets(BaseModel):
    """Most tokens; a budget that is not there has no limit."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None


class UsageResponse(BaseModel):
    """What an owner has spent. Days without anything are left out."""

    tenant: str
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    days: list[Day]
    total: Tokens
    budgets: Budgets | None = Field(
        default=None, description="The caller's. Left out for another tenant: each of its keys can have its own."
    )
