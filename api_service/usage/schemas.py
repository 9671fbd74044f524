"""The bodies of responses."""

from datetime import date
from typing import Any, Self

from pydantic import BaseModel, Field

from owners.ledger import UsageTotals


class Tokens(BaseModel):
    """What was used. `prompt_tokens` includes `cached_prompt_tokens`."""

    requests: int = Field(description="Questions, including those that shared an answer or got an earlier one.")
    prompt_tokens: int = Field(
        description="As the model server counted. A shared answer counts for the tenant who asked first."
    )
    completion_tokens: int
    cached_prompt_tokens: int
    repeated_tokens: int = Field(description="Read or written again after an interrupted attempt; in no other count.")
    total_tokens: int = Field(description="The sum that limits and budgets count: prompt, completion and repeated.")

    @classmethod
    def of(cls, totals: UsageTotals, **more: Any) -> Self:
        """From the ledger."""
        return cls(requests=totals.requests, **totals.by_column(), total_tokens=totals.total_tokens, **more)


class Day(Tokens):
    """A day in UTC."""

    day: date


class Budgets(BaseModel):
    """The caller's budgets. A missing one means no limit."""

    tokens_per_day: int | None = None
    tokens_per_month: int | None = None


class UsageResponse(BaseModel):
    """What an owner has used. Days without usage are left out."""

    tenant: str
    first: date = Field(alias="from")
    last: date = Field(alias="to")
    days: list[Day]
    total: Tokens
    budgets: Budgets | None = Field(
        default=None, description="The caller's. Left out for another tenant: each of its keys can have its own."
    )
