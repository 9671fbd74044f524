"""SQL that several statements share."""

from typing import Any, Final

from owners.token_counts import TokenCounts, each_count

ITS_ANSWER: Final = "LATERAL (SELECT * FROM answers WHERE id = q.answer_id OFFSET 0) AS a ON true"
"""SQL after JOIN: the answer ``a`` of a question ``q``, found by its id.

Without OFFSET 0, PostgreSQL would go through all answers for each question where it takes the tables for empty.
"""
# Said so that it fits the primary key and no index of owners.
ITS_OWN: Final = "id = :question_id AND owner || '' = :owner"
"""SQL: a question by its id, if it is the caller's."""
COUNTS: Final = each_count("{0}")
"""SQL: the counts of an answer, or of a ledger entry, as a list of columns."""
SET_COUNTS: Final = each_count("{0} = :{0}")
"""SQL after SET: the counts of an answer."""


def first_question(answer_id: str) -> str:
    """SQL: whoever asked first for the answer, after FROM. All who asked are read, by the index for it.

    Without OFFSET 0, PostgreSQL would read all questions in the order of their ids until it meets one, where its
    statistics say that few answers have most of the questions.
    """
    return f"(SELECT * FROM questions WHERE answer_id = {answer_id} OFFSET 0) AS asked ORDER BY id LIMIT 1"


def booking_parameters(usage: TokenCounts, booked: TokenCounts) -> dict[str, Any]:
    """The parameters of a statement that books a usage of which the ledger has some: ``:booked_…``, never NULL."""
    return usage.by_column() | {f"booked_{name}": count or 0 for name, count in booked.by_column().items()}
