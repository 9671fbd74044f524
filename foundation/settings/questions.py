"""How long questions may be, wait and be kept."""

from typing import Annotated

from pydantic import AfterValidator, Field

from foundation.settings.base import Group


def _never_or_a_day(days: float) -> float:
    if 0 < days < 1:
        raise ValueError("must be 0 (never) or at least 1: an idempotency key is kept for 24 h with its question")
    return days


class QuestionSettings(Group):
    max_question_characters: int = Field(
        8_000, ge=1, le=1_000_000, description="Longest question_text, in Unicode code points."
    )
    max_wait_seconds: float = Field(
        600,
        gt=0,
        le=604_800,
        description="Seconds after asking when a question without an answer ends as expired.",
    )
    answer_reuse_seconds: float = Field(
        86_400,
        ge=0,
        le=31_536_000,
        description="Seconds for which a finished answer is reused for the same question; 0: never.",
    )
    backlog_limit: int = Field(
        100_000, ge=1, le=100_000_000, description="Number of queued answers above which new questions get 503."
    )
    retention_days: Annotated[float, AfterValidator(_never_or_a_day)] = Field(
        0, ge=0, le=36_500, description="Days to keep a question after it has ended; 0: forever."
    )
    share_answers: bool = Field(
        False,
        description="Whether two tenants with the same question share one answer. Each can then tell, by how fast the"
        " answer comes, that somebody asked it before.",
    )
