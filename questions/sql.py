"""SQL that several statements share."""

ITS_ANSWER = "LATERAL (SELECT * FROM answers WHERE id = q.answer_id OFFSET 0) AS a ON true"
"""SQL after JOIN: the answer ``a`` of a question ``q``, found by its id.

Without OFFSET 0, PostgreSQL would go through all answers for each question where it takes the tables for empty.
"""
# Said so that it fits the primary key and no index of owners.
ITS_OWN = "id = :question_id AND owner || '' = :owner"
"""SQL: a question by its id, if it is the caller's."""


def first_question(answer_id: str) -> str:
    """SQL: whoever asked first for the answer, after FROM. All who asked are read, by the index for it.

    Without OFFSET 0, PostgreSQL would read all questions in the order of their ids until it meets one, where its
    statistics say that few answers have most of the questions.
    """
    return f"(SELECT * FROM questions WHERE answer_id = {answer_id} OFFSET 0) AS asked ORDER BY id LIMIT 1"
