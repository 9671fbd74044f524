"""Each statement has one plan, whatever PostgreSQL believes of the tables."""

from collections.abc import AsyncIterator
from importlib import import_module

from sqlalchemy import TextClause, text
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import _compiled

MODULES = (
    "models.identity",
    "owners.concurrency_limit",
    "owners.ledger",
    "owners.tenancy",
    "owners.turns",
    "questions.asking",
    "questions.cancelling",
    "questions.claims",
    "questions.erasing",
    "questions.listing",
    "questions.operating",
    "questions.reading",
    "questions.sweeping",
    "questions.worker_leases",
)
MEANT = {
    "claims._CLAIM": {"answers_claim", "answers_pkey", "questions_answer", "workers_pkey"},
    "claims._CLAIM_BUT_FOR": {"answers_claim", "answers_pkey", "questions_answer", "workers_pkey"},
    "claims._CLAIM_SUSPECTS": {
        "answers_suspects",
        "answers_holder",
        "answers_pkey",
        "questions_answer",
        "workers_pkey",
    },
    "claims._FINISH": {"answers_pkey", "questions_answer"},
    "worker_leases._HELD": {"answers_holder"},
    "asking._ASK": {"answers_reusable_key", "answers_pkey"},
    "tenancy._SEVERAL": {"answers_owner", "api_keys_pkey", "ledger_days_pkey"},
    "identity._REMEMBERED": {"models_pkey"},
    "operating._OLDEST": {"questions_pkey", "answers_pkey"},
    "reading._READ": {"questions_pkey", "answers_pkey"},
    "concurrency_limit._COUNT": {"answers_owner"},
    "sweeping._ANY_SUSPECTS": {"answers_suspects"},
    "sweeping._COUNT_DUE": {"answers_claim"},
    "sweeping._LOCK_OVERDUE": {"answers_deadline"},
    "sweeping._MAKE_DUE": {"answers_due", "answers_pkey"},
    "sweeping._REQUEUE_LOST": {"answers_holder", "answers_pkey", "workers_pkey"},
    "sweeping._STOP_REUSE": {"answers_reuse", "answers_pkey"},
    "turns._CLAIMS": {"answers_claim"},
    "turns._HIGHEST": {"answers_owner"},
}
"""The indexes by which the statements that run all the time should read."""


def statements() -> dict[str, str]:
    """Those of the services, by name."""
    return {
        f"{module.partition('.')[2]}.{name}": _compiled(value)[0]
        for module in MODULES
        for name, value in vars(import_module(module)).items()
        if isinstance(value, TextClause)
    }


async def states(engine: AsyncEngine) -> AsyncIterator[str]:
    """Leaves the tables, and what PostgreSQL knows of them, as they are in the life of a mesh."""

    async def run(statement: str) -> None:
        async with engine.begin() as connection:
            await connection.execute(text(statement))

    async def add(state: str, count: int, each: int = 1) -> None:
        final = state == "completed"
        await run(f"""
            WITH answer AS (
                INSERT INTO answers (answer_key, reusable, reuse_until, state, model, text, owner, turn, next_deadline,
                    holder, token, finished_at)
                SELECT sha256(convert_to(random()::text || n, 'UTF8')), true,
                    {"now() + interval '1 day'" if final else "NULL"}, '{state}', '',
                    {"'because'" if final else "NULL"}, 'acme', n, now() + interval '1 day',
                    {"1" if state == "in_progress" else "NULL"}, n, {"now()" if final else "NULL"}
                FROM generate_series(1, {count}) AS n RETURNING id
            )
            INSERT INTO questions (owner, text, language, answer_id, deadline)
            SELECT 'acme', 'why?', 'en', answer.id, now() + interval '1 day' FROM answer, generate_series(1, {each})
        """)

    yield "nothing was ever asked"
    await add("completed", 50, each=40)
    await run("ANALYZE")
    yield "50 answers, which 2,000 questions share"
    await add("queued", 5_000)
    yield "a burst, of which PostgreSQL does not know"
    await run("ANALYZE")
    yield "a long queue"
    await run("UPDATE answers SET state = 'in_progress', holder = 1, token = 1 WHERE state = 'queued' AND id % 10 = 0")
    await run("ANALYZE")
    yield "some in progress"
    await run("UPDATE answers SET state = 'completed', holder = NULL, text = '', finished_at = now()")
    await run("ANALYZE")
    yield "all are final"
    await add("queued", 5_000)
    yield "a burst after that"
    await run("DELETE FROM questions WHERE answer_id % 50 <> 0")
    await run("DELETE FROM answers WHERE id % 50 <> 0")
    await run("ANALYZE")
    yield "most were removed"


async def test_each_statement_has_one_plan_whatever_the_tables_hold(engine: AsyncEngine) -> None:
    plans: dict[str, dict[str, list[str]]] = {name: {} for name in statements()}
    async for state in states(engine):
        async with engine.connect() as connection:
            for name, statement in statements().items():
                await connection.exec_driver_sql(f"PREPARE it AS {statement}")
                parameters = "SELECT cardinality(parameter_types) FROM pg_prepared_statements WHERE name = 'it'"
                count = (await connection.exec_driver_sql(parameters)).scalar_one()
                nothing = f"({', '.join(['NULL'] * count)})" if count else ""
                plan = await connection.exec_driver_sql(f"EXPLAIN (COSTS OFF) EXECUTE it {nothing}")
                plans[name].setdefault("\n".join(plan.scalars()), []).append(state)
                await connection.exec_driver_sql("DEALLOCATE it")
    assert {name: found for name, found in plans.items() if len(found) > 1} == {}
    reads = {
        name: {
            line.split(" using ")[1].split()[0] for line in next(iter(plans[name])).splitlines() if " using " in line
        }
        for name in MEANT
    }
    assert reads == MEANT
