"""What PostgreSQL itself saw: triggers note when an answer becomes final, and whatever is done to it afterwards."""

from dataclasses import dataclass

import asyncpg

from questions.states import FINAL

_FINAL = ", ".join(sorted(f"'{state}'" for state in FINAL))
_INSTALL = f"""
    CREATE SCHEMA chaos;
    CREATE TABLE chaos.finals (answer_id bigint NOT NULL);
    CREATE TABLE chaos.changes (answer_id bigint NOT NULL, change text NOT NULL);
    CREATE FUNCTION chaos.note() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'DELETE' THEN
            INSERT INTO chaos.changes VALUES (OLD.id, 'deleted');
        ELSIF OLD.state NOT IN ({_FINAL}) THEN
            IF NEW.state IN ({_FINAL}) THEN INSERT INTO chaos.finals VALUES (OLD.id); END IF;
        ELSIF (OLD.state, OLD.text, OLD.finish_reason, OLD.error_reason, OLD.finished_at)
            IS DISTINCT FROM (NEW.state, NEW.text, NEW.finish_reason, NEW.error_reason, NEW.finished_at) THEN
            INSERT INTO chaos.changes VALUES (OLD.id, OLD.state || ' became ' || NEW.state);
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER chaos AFTER UPDATE OR DELETE ON answers FOR EACH ROW EXECUTE FUNCTION chaos.note();
"""
_ROWS = """
    SELECT q.id, q.text AS question, q.answer_id, coalesce(q.ended, a.state) AS state, a.text, a.error_reason,
           a.attempt, a.losses, a.interruptions, extract(epoch FROM a.finished_at)::float8 AS finished_at,
           (SELECT count(*) FROM chaos.finals f WHERE f.answer_id = a.id) AS finals,
           (SELECT string_agg(change, ', ') FROM chaos.changes c WHERE c.answer_id = a.id) AS changes
    FROM questions q JOIN answers a ON a.id = q.answer_id
    WHERE starts_with(q.text, $1)
"""


@dataclass(frozen=True, slots=True)
class Row:
    """A question in PostgreSQL, with its answer. ``finals``: how often that answer became final."""

    id: int
    question: str
    answer_id: int
    state: str
    text: str | None
    error_reason: str | None
    attempt: int
    losses: int
    interruptions: int
    finished_at: float | None
    finals: int
    changes: str | None


async def install(database_url: str) -> None:
    """Once, in a database that was migrated."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(_INSTALL)
    finally:
        await connection.close()


async def rows(database_url: str, beginning: str) -> list[Row]:
    """All questions whose text begins so."""
    connection = await asyncpg.connect(database_url)
    try:
        return [Row(**row) for row in await connection.fetch(_ROWS, beginning)]
    finally:
        await connection.close()
