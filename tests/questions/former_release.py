"""The statements of the release before requests were stored, as its processes run them beside those of this one."""

import hashlib

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import fetch

_ASK = text("""
    WITH known AS (
        SELECT id, state, text FROM answers
        WHERE answer_key = :answer_key AND reusable AND (reuse_until IS NULL OR reuse_until > clock_timestamp())
        FOR KEY SHARE
    ), new AS (
        INSERT INTO answers (answer_key, reusable, model, owner, priority, turn, next_deadline)
        SELECT :answer_key, true, '', 'local', 'normal', 0, clock_timestamp() + interval '600 seconds'
        WHERE NOT EXISTS (SELECT FROM known)
        ON CONFLICT (answer_key) WHERE reusable DO NOTHING
        RETURNING id, next_deadline
    ), question AS (
        INSERT INTO questions (owner, text, language, answer_id, deadline)
        SELECT 'local', CAST(:text AS text), 'en', answer.id, clock_timestamp() + interval '600 seconds'
        FROM (SELECT id FROM known UNION ALL SELECT id FROM new) answer
        RETURNING id, answer_id
    )
    SELECT question.id, known.text FROM question LEFT JOIN known ON known.id = question.answer_id
""")
_CLAIM = text("""
    WITH due AS (
        SELECT id FROM answers WHERE state = 'queued' AND due_at IS NULL AND (losses >= 3 OR interruptions >= 3) = false
        ORDER BY turn, id LIMIT 1 FOR UPDATE SKIP LOCKED
    ), claimed AS (
        UPDATE answers SET state = 'in_progress', holder = :worker_id, token = nextval('claim_tokens'),
            attempt = attempt + 1, started_at = coalesce(started_at, clock_timestamp())
        WHERE id = ANY(ARRAY(SELECT id FROM due))
          AND EXISTS (SELECT FROM workers WHERE id = :worker_id AND lease_until > clock_timestamp())
        RETURNING id AS answer_id, token
    )
    SELECT claimed.*, q.text AS question_text FROM claimed CROSS JOIN LATERAL (
        SELECT text FROM (SELECT * FROM questions WHERE answer_id = claimed.answer_id OFFSET 0) AS asked
        ORDER BY id LIMIT 1
    ) q
""")
_FINISH = text("""
    UPDATE answers SET state = 'completed', text = :text, finish_reason = 'stop', prompt_tokens = 3,
        completion_tokens = 2, reusable = reusable AND true,
        reuse_until = clock_timestamp() + interval '1 day', holder = NULL, finished_at = clock_timestamp()
    WHERE id = :answer_id AND token = :token AND finished_at IS NULL AND state <> 'queued' RETURNING id
""")


async def ask(engine: AsyncEngine, words: str) -> str | None:
    """A process of the former api_service takes a question; the answer where it reuses one."""
    parameters = {"text": words, "answer_key": hashlib.sha256(f"former {words}".encode()).digest()}
    (row,) = await fetch(engine, _ASK, parameters)
    answer: str | None = row["text"]
    return answer


async def answer(engine: AsyncEngine, worker_id: int, words: str) -> str:
    """A process of the former worker_service answers the next question, whose text is returned."""
    (claimed,) = await fetch(engine, _CLAIM, {"worker_id": worker_id})
    parameters = {"answer_id": claimed["answer_id"], "token": claimed["token"], "text": words}
    assert await fetch(engine, _FINISH, parameters)
    question: str = claimed["question_text"]
    return question
