"""Fills the tables as if much had been asked: with copies of rows that the mesh itself made, whatever its schema."""

import asyncio
from collections.abc import Mapping

import asyncpg

# What may not be the same in every copy, and deadlines, which must not pass while a row is measured.
_ANSWERS = {
    "id": "base.answer_id + n",
    "answer_key": "sha256(convert_to('copy ' || base.answer_id + n, 'UTF8'))",
    "turn": "copied.turn + n",
    "next_deadline": "clock_timestamp() + interval '1 day'",
    # Spread over a year, so that none ends soon: the sweeper would be at work on those.
    "reuse_until": "copied.reuse_until + interval '1 day' + n % 10000 * interval '50 minutes'",
}
_QUESTIONS = {
    "id": "base.question_id + n",
    "answer_id": "base.answer_id + n",
    "text": "'Copied question ' || base.question_id + n",
    "deadline": "clock_timestamp() + interval '1 day'",
}
_COLUMNS = """
    SELECT column_name FROM information_schema.columns
    WHERE table_schema = 'public' AND table_name = $1 AND is_generated = 'NEVER' ORDER BY ordinal_position
"""
_INDEXES = """
    SELECT relname, pg_get_indexdef(indexrelid) AS definition FROM pg_index JOIN pg_class ON oid = indexrelid
    WHERE indrelid IN ('questions'::regclass, 'answers'::regclass)
      AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)
"""


def add_copies(url: str, question_id: int, count: int) -> None:
    """Add so many questions, each with an answer of its own, in the state of this one."""
    asyncio.run(_add_copies(url, question_id, count, anew=False))


def fill_anew(url: str, question_id: int, count: int) -> None:
    """As ``add_copies``, in place of what there is, and faster by far for millions: indexes are built at the end.

    With PostgreSQL's ``wal_level`` minimal, nothing is written twice.
    """
    asyncio.run(_add_copies(url, question_id, count, anew=True))


async def _add_copies(url: str, question_id: int, count: int, *, anew: bool) -> None:
    connection = await asyncpg.connect(url)
    try:
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")  # foreign keys hold by themselves
            await connection.execute("SET LOCAL maintenance_work_mem = '1GB'")
            await connection.execute(
                "CREATE TEMPORARY TABLE question ON COMMIT DROP AS SELECT * FROM questions"
                f" WHERE id = {question_id};"
                " CREATE TEMPORARY TABLE answer ON COMMIT DROP AS SELECT * FROM answers"
                " WHERE id = (SELECT answer_id FROM question);"
                " CREATE TEMPORARY TABLE base ON COMMIT DROP AS SELECT"
                " (SELECT max(id) FROM questions) AS question_id, (SELECT max(id) FROM answers) AS answer_id"
            )
            indexes = await connection.fetch(_INDEXES) if anew else []
            for index in indexes:
                await connection.execute(f"DROP INDEX {index['relname']}")
            if anew:
                await connection.execute("TRUNCATE questions, answers CASCADE")
            await _copy(connection, "answers", "answer", _ANSWERS, count)
            await _copy(connection, "questions", "question", _QUESTIONS, count)
            for index in indexes:
                await connection.execute(index["definition"])
        await connection.execute(f"VACUUM ({'FREEZE, ' if anew else ''}ANALYZE) answers, questions")
        await connection.execute("CHECKPOINT")
    finally:
        await connection.close()


async def _copy(
    connection: "asyncpg.Connection[asyncpg.Record]", table: str, copied: str, changed: Mapping[str, str], count: int
) -> None:
    columns = [row["column_name"] for row in await connection.fetch(_COLUMNS, table)]
    values = [changed.get(column, f'copied."{column}"') for column in columns]
    await connection.execute(
        f"INSERT INTO {table} ({', '.join(columns)}) OVERRIDING SYSTEM VALUE"
        f" SELECT {', '.join(values)} FROM {copied} copied, base, generate_series(1, {count}) n"
    )
    await connection.execute(f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), max(id)) FROM {table}")
