"""`askmesh certificates`, `askmesh settings` and `askmesh restored`."""

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest
from click.testing import CliRunner, Result
from cryptography import x509
from redis.asyncio import Redis

from embedded.valkey import Valkey
from foundation.settings import DatabaseSettings, RedisSettings
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


@pytest.mark.integration
def test_after_a_restore_no_id_is_given_out_twice_and_redis_is_empty(database_url: str, valkey: Valkey) -> None:
    async def last_ids() -> dict[str, int]:
        connection = await asyncpg.connect(database_url)
        try:
            rows = await connection.fetch("SELECT sequencename, coalesce(last_value, 0) AS last FROM pg_sequences")
            return {row["sequencename"]: row["last"] for row in rows}
        finally:
            await connection.close()

    async def keys(*, remember: bool) -> int:
        redis: Redis = Redis.from_url(valkey.url())
        if remember:
            await redis.set("answer", "of a lost question")
        found: int = await redis.dbsize()
        await redis.aclose()
        return found

    before = run_apart(last_ids())
    assert run_apart(keys(remember=True))
    done = run("restored", ASKMESH_DATABASE_URL=database_url, ASKMESH_REDIS_URL=valkey.url())
    assert (done.exit_code, done.output.splitlines()[1:]) == (0, ["Redis is empty"])
    after = run_apart(last_ids())
    assert before.keys() == after.keys() >= {"questions_id_seq", "answers_id_seq", "claim_tokens"}
    assert all(after[name] >= before[name] + 1_000_000_000 for name in before)
    assert run_apart(keys(remember=False)) == 0
    told = run("restored", ASKMESH_DATABASE_URL=database_url, ASKMESH_REDIS_URL=None)
    assert "empty Redis yourself" in told.output


@pytest.mark.integration
def test_in_a_container_a_restore_finds_both_servers_among_the_secrets(
    database_url: str, valkey: Valkey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("operations.running.SECRETS", tmp_path)
    for group, name, url in (
        (DatabaseSettings, "database", database_url),
        (RedisSettings, "redis", valkey.url()),
    ):
        (tmp_path / f"askmesh_{name}_url").write_text(f"{url}\n")
        monkeypatch.setitem(group.model_config, "secrets_dir", tmp_path)
    done = run("restored", ASKMESH_DATABASE_URL=None, ASKMESH_REDIS_URL=None)
    assert (done.exit_code, done.output.splitlines()[1:]) == (0, ["Redis is empty"])
    wrong = run("restored", ASKMESH_DATABASE_URL=None, ASKMESH_REDIS_URL="http://localhost")
    assert (wrong.exit_code, "ASKMESH_REDIS_URL" in wrong.output, "Traceback" in wrong.output) == (1, True, False)
