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
        description="Seconds from asking after which a question without an answer ends as expired.",
    )
    answer_reuse_seconds: float = Field(
        86_400,
        ge=0,
        le=31_536_000,
        description="Seconds for which a finished answer is given to the same question again; 0: never.",
    )
    backlog_limit: int = Field(
        100_000, ge=1, le=100_000_000, description="Queued answers beyond which new questions are refused with 503."
    )
    retention_days: Annotated[float, AfterValidator(_never_or_a_day)] = Field(
        0, ge=0, le=36_500, description="Days after its end that a question is kept for; 0: workers remove none."
    )
    share_answers: bool = Field(
        False,
        description="Whether the same question of two tenants shares one answer. Each can then tell, by how fast the"
        " answer comes, that somebody asked it before.",
    )
