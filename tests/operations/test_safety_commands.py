"""`askmesh certificates`, `askmesh settings` and `askmesh restored`."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result
from cryptography import x509

from foundation.settings import DatabaseSettings
from operations.certificates import NAMES
from operations.commands import askmesh
from tests.servers import run_apart


def run(*arguments: str, **environment: str | None) -> Result:
    return CliRunner().invoke(askmesh, arguments, env=environment)


def test_each_service_gets_a_certificate_with_its_names_and_a_key_that_only_its_owner_reads(tmp_path: Path) -> None:
    made = run("certificates", "make", "--out", str(tmp_path), "--days", "30")
    assert made.exit_code == 0, made.output
    for service, names in NAMES.items():
        folder = tmp_path / service
        certificate = x509.load_pem_x509_certificate((folder / "certificate.pem").read_bytes())
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert {str(name.value) for name in found} == set(names)
        assert timedelta(days=29) < certificate.not_valid_after_utc - datetime.now(UTC) <= timedelta(days=30)
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(folder / "certificate.pem", folder / "key.pem")
        assert (folder / "key.pem").stat().st_mode & 0o077 == 0
        assert (folder / "authority.pem").read_bytes() == (tmp_path / "authority.pem").read_bytes()
        assert not (folder / "authority.key").exists()
    assert (tmp_path / "authority.key").stat().st_mode & 0o077 == 0
    assert "PRIVATE KEY" not in made.output


def test_making_again_keeps_the_authority_and_shows_what_runs_out(tmp_path: Path) -> None:
    run("certificates", "make", "--out", str(tmp_path))
    files = [tmp_path / "authority.pem", tmp_path / "llm_service" / "certificate.pem"]
    before = [file.read_bytes() for file in files]
    assert run("certificates", "make", "--out", str(tmp_path)).exit_code == 0
    after = [file.read_bytes() for file in files]
    assert (before[0] == after[0], before[1] == after[1]) == (True, False)
    shown = run("certificates", "show", str(files[1]))
    assert shown.exit_code == 0
    assert "llm_service, llm-service" in shown.output
    assert "until 20" in shown.output
    refused = run("certificates", "show", str(tmp_path / "llm_service" / "key.pem"))
    assert (refused.exit_code, "holds no certificate" in refused.output) == (1, True)


def test_settings_are_shown_without_their_secrets() -> None:
    shown = run(
        "settings",
        ASKMESH_DATABASE_URL="postgresql://askmesh:very-well-hidden@db/askmesh",
        ASKMESH_MODEL_URL="https://user:hidden@models.example.com/v1",
        ASKMESH_REDIS_URL="redis://:hidden@db",
        ASKMESH_WORKER_SLOTS="7",
        ASKMESH_PORT="70000",
        ASKMESH_JWT_ISSUER="https://login.example.com/",
    )
    assert shown.exit_code == 0
    values = dict(line.split("=", 1) for line in shown.output.splitlines())
    assert values["ASKMESH_DATABASE_URL"] == "***"
    assert values["ASKMESH_MODEL_URL"] == "https://***@models.example.com/v1"
    assert values["ASKMESH_WORKER_SLOTS"] == "7"
    assert "ASKMESH_REDIS_URL: has a password of less than 12 characters" in values["ASKMESH_REDIS_URL"]
    assert "is required" in values["ASKMESH_BROKER_URL"]
    assert "65535" in values["ASKMESH_PORT"]
    assert values["ASKMESH_GRPC_PORT"] == "(not read while ASKMESH_PORT is not valid)"
    assert values["ASKMESH_REQUIRE_AUTH"].startswith("(not read while ASKMESH_JWT_ISSUER, ")
    assert "set all three or none" in values["ASKMESH_JWT_AUDIENCE"]
    assert "hidden" not in shown.output
    unknown = run("settings", ASKMESH_WROKER_SLOTS="7")
    assert (unknown.exit_code, "ASKMESH_WROKER_SLOTS" in unknown.output) == (1, True)
    assert "ASKMESH_MODEL_API_KEY=***" in run("settings", ASKMESH_MODEL_API_KEY="well-hidden-too").output.splitlines()


def test_after_a_restore_no_id_is_given_out_twice_and_nothing_in_redis_is_read(database_url: str) -> None:
    async def last_ids_and_mesh() -> tuple[dict[str, int], str]:
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch("SELECT sequencename, coalesce(last_value, 0) AS last FROM pg_sequences")
            return {row["sequencename"]: row["last"] for row in rows}, str(
                await connection.fetchval("SELECT id FROM mesh")
            )
        finally:
            await connection.close()

    before, mesh = run_apart(last_ids_and_mesh())
    done = run("restored", ASKMESH_DATABASE_URL=database_url)
    assert (done.exit_code, done.output.splitlines()[1:]) == (0, ["the mesh has a new id in Redis"])
    after, new_mesh = run_apart(last_ids_and_mesh())
    assert before.keys() == after.keys() >= {"questions_id_seq", "answers_id_seq", "claim_tokens"}
    assert after.pop("claimed_turns") == before.pop("claimed_turns"), "turns are no ids: who asks next is in time"
    assert all(after[name] >= before[name] + 1_000_000_000 for name in before)
    assert new_mesh != mesh


def test_in_a_container_a_restore_finds_the_database_among_the_secrets(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operations.running.SECRETS", tmp_path)
    (tmp_path / "askmesh_database_url").write_text(f"{database_url}\n")
    monkeypatch.setitem(DatabaseSettings.model_config, "secrets_dir", tmp_path)
    done = run("restored", ASKMESH_DATABASE_URL=None)
    assert (done.exit_code, done.output.splitlines()[1:]) == (0, ["the mesh has a new id in Redis"])
