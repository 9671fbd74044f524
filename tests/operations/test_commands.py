import json
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner

from foundation.settings import DatabaseSettings
from operations.commands import askmesh
from tests.servers import run_apart


def run(*arguments: str, database_url: str | None = None) -> tuple[int, str]:
    environment = {"ASKMESH_DATABASE_URL": database_url}
    result = CliRunner().invoke(askmesh, arguments, env=environment)
    return result.exit_code, result.output


@pytest.fixture
def failed(database_url: str) -> list[int]:
    """The ids of two questions that failed, as poison and as refused."""

    async def insert() -> list[int]:
        connection = await asyncpg.connect(database_url)
        try:
            await connection.execute("TRUNCATE questions, answers, workers")
            rows = await connection.fetch("""
                WITH a AS (
                    INSERT INTO answers (answer_key, reusable, model, state, error_reason, next_deadline, finished_at)
                    SELECT sha256(reason::bytea), false, '', 'failed', reason, now(), now()
                    FROM unnest(ARRAY['poison', 'request_refused']) reason RETURNING id
                )
                INSERT INTO questions (owner, text, language, answer_id, deadline)
                SELECT 'local', 'a secret question', 'en', id, now() FROM a RETURNING id
            """)
            return [row["id"] for row in rows]
        finally:
            await connection.close()

    return run_apart(insert())


def test_failed_questions_are_listed_with_their_reasons_and_without_their_text(
    database_url: str, failed: list[int]
) -> None:
    status, output = run("questions", "list", "failed", database_url=database_url)
    assert status == 0
    assert all(word in output for word in ("poison", "request_refused", str(failed[0]), "2 listed"))
    assert "secret" not in output


def test_a_list_can_be_read_by_programs(database_url: str, failed: list[int]) -> None:
    status, output = run("questions", "list", "poison", "--json", database_url=database_url)
    assert status == 0
    assert [json.loads(line)["id"] for line in output.splitlines()] == [failed[0]]


def test_one_or_many_are_replayed_and_only_once(database_url: str, failed: list[int]) -> None:
    status, output = run("questions", "replay", str(failed[0]), database_url=database_url)
    assert (status, "1 replayed" in output) == (0, True)
    status, output = run("questions", "replay", "--all", "failed", database_url=database_url)
    assert (status, f"{failed[1]} is asked again" in output, "1 replayed" in output) == (0, True, True)
    status, output = run("questions", "replay", str(failed[1]), database_url=database_url)
    assert (status, "0 replayed" in output) == (1, True)


def test_purging_asks_first(database_url: str, failed: list[int]) -> None:
    status, output = run("questions", "purge", "--older-than", "0s", database_url=database_url)
    assert (status, "Remove every final question" in output) == (1, True)
    status, output = run("questions", "purge", "--older-than", "0s", "--yes", database_url=database_url)
    assert (status, output) == (0, f"{len(failed)} removed\n")


@pytest.mark.parametrize("age", ["30", "d", "-1d", "1w", "9999999d"])
def test_an_age_that_is_none_is_refused(age: str) -> None:
    status, output = run("questions", "purge", "--older-than", age)
    assert (status, "as in 30d" in output) == (2, True)


def test_a_missing_setting_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASKMESH_DATA_DIR", str(tmp_path))
    status, output = run("questions", "list")
    assert (status, "ASKMESH_DATABASE_URL" in output) == (1, True)


@pytest.mark.loopback
def test_an_unreachable_server_is_one_line_without_its_password() -> None:
    status, output = run("questions", "list", database_url="postgresql://me:secret@127.0.0.1:1/none")
    assert (status, len(output.splitlines()), "secret" in output) == (1, 1, False)


def test_beside_a_running_mesh_it_finds_the_database(
    database_url: str, failed: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "database_url").write_text(database_url)
    monkeypatch.setenv("ASKMESH_DATA_DIR", str(tmp_path))
    status, output = run("questions", "list", "failed")
    assert (status, f"{len(failed)} listed" in output) == (0, True)


@pytest.mark.processes
def test_it_runs_as_a_module() -> None:
    helped = subprocess.run([sys.executable, "-m", "operations", "--help"], capture_output=True, text=True, check=True)
    assert "Look after askmesh" in helped.stdout


def test_in_a_container_it_finds_the_database_among_the_secrets(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "askmesh_database_url").write_text(f"{database_url}\n")
    monkeypatch.setattr("operations.running.SECRETS", tmp_path)
    monkeypatch.setitem(DatabaseSettings.model_config, "secrets_dir", tmp_path)
    status, output = run("questions", "list", "all")
    assert (status, "listed" in output) == (0, True)


@pytest.mark.parametrize(
    ("command", "line"),
    [
        (["questions", "list"], "  poison  set aside because they broke workers or engines again and again"),
        (["keys", "limit"], "  requests_per_minute   tokens_per_minute   concurrent_questions   streams"),
    ],
)
def test_tables_in_the_help_stay_tables(command: list[str], line: str) -> None:
    assert line in CliRunner().invoke(askmesh, [*command, "--help"]).output.splitlines()
