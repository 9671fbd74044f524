"""What an operator can find out of a mesh."""

import json

import asyncpg
import pytest
from click.testing import CliRunner

from operations.commands import askmesh
from tests.servers import run_apart


def run(database_url: str, *arguments: str) -> str:
    result = CliRunner().invoke(askmesh, arguments, env={"ASKMESH_DATABASE_URL": database_url})
    assert result.exit_code == 0, result.output
    return result.output


@pytest.fixture
def mesh(database_url: str) -> str:
    """A database with a queue of two tenants and three processes, one of which has another setting."""

    async def insert() -> None:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("TRUNCATE questions, answers, workers, processes")
            await connection.execute("""
                INSERT INTO workers (name, lease_until) VALUES ('host 7', now() + interval '10 s');
                INSERT INTO answers (
                    answer_key, reusable, owner, request_id, model, state, holder, token, next_deadline
                )
                SELECT sha256(owner::bytea || n::text::bytea), true, owner, 'request-' || n, '',
                    CASE n WHEN 1 THEN 'in_progress' ELSE 'queued' END,
                    CASE n WHEN 1 THEN (SELECT id FROM workers) END, n, now() + interval '1 h'
                FROM unnest(ARRAY['north', 'south']) owner, generate_series(1, 3) n WHERE owner = 'north' OR n < 3;
                INSERT INTO questions (owner, text, language, request_id, answer_id, deadline)
                SELECT owner, 'a secret question', 'en', request_id, id, next_deadline FROM answers;
                INSERT INTO processes (service, name, version, settings, state) VALUES
                    ('api_service', 'host 5', '1.0', '{"ASKMESH_TEMPERATURE": "0.5", "ASKMESH_LATER": ["x"]}', '{}'),
                    ('worker_service', 'host 6', '1.0', '{"ASKMESH_TEMPERATURE": "0.0"}', '{"slots": "3 of 512"}'),
                    ('worker_service', 'host 7', '1.0', '{"ASKMESH_TEMPERATURE": "0.5"}', '{"slots": "0 of 512"}')
            """)
        finally:
            await connection.close()

    run_apart(insert())
    return database_url


def test_who_waits_who_works_and_who_disagrees_is_told(mesh: str) -> None:
    output = run(mesh, "status")
    assert "3 due, the oldest for 0:00:0" in output
    assert "2 in progress" in output
    assert [line.split() for line in output.splitlines() if line.startswith(("north", "south"))] == [
        ["north", "2", "1"],
        ["south", "1", "1"],
    ]
    assert "slots 3 of 512, lease none" in output
    assert "slots 0 of 512, lease for " in output
    differs = (
        "ASKMESH_TEMPERATURE is '0.0' in worker_service host 6, '0.5' in api_service host 5 and worker_service host 7"
    )
    assert f"settings differ: {differs}" in output


def test_programs_can_read_it(mesh: str) -> None:
    told = json.loads(run(mesh, "status", "--json", "--tenants", "1"))
    assert told["queue"]["due"] == 3
    assert [owner["owner"] for owner in told["owners"]] == ["north"]
    assert len(told["processes"]) == 3


def test_a_question_is_found_by_what_its_user_and_what_a_log_says(mesh: str) -> None:
    def found(*options: str) -> list[dict[str, object]]:
        return [json.loads(line) for line in run(mesh, "questions", "list", "all", "--json", *options).splitlines()]

    assert {entry["owner"] for entry in found("--request", "request-2")} == {"north", "south"}
    (entry,) = found("--request", "request-2", "--tenant", "south")
    assert found("--answer", str(entry["answer_id"])) == found("--id", str(entry["id"])) == [entry]
    assert found("--tenant", "nobody") == []


def test_the_table_shows_tenant_answer_and_request(mesh: str) -> None:
    output = run(mesh, "questions", "list", "all", "--tenant", "south")
    assert output.splitlines()[0].split()[:3] == ["id", "answer", "tenant"]
    assert "request-2" in output
    assert "secret" not in output
