"""The bodies of responses."""

from datetime import datetime

from pydantic import BaseModel, Field

from questions.erasing import Erased
from questions.states import State


class ListedQuestion(BaseModel):
    """A question in the list. Its answer is at `/api/answer/{question_id}`."""

    question_id: int
    status: State
    question_text: str = Field(description="As it was asked.")
    created_at: datetime
    finished_at: datetime | None = None


class QuestionList(BaseModel):
    """A page of your questions, newest first."""

    questions: list[ListedQuestion] = Field(
        description="With `status` a page can be short or empty although there are more: see `next_cursor`."
    )
    next_cursor: str | None = Field(None, description="Send it as `cursor` for the next page; absent on the last.")


class Erasure(BaseModel):
    """A question that was erased."""

    question_id: int
    answer: Erased = Field(
        description="`erased`: its answer is gone too, from every store. `kept`: another question shares the answer; it"
        " is given to no new question, and is removed with the last one."
    )
