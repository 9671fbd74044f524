"""The URLs of PostgreSQL, Redis and broker that ask for TLS, against servers that have it."""

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
from celery import Celery
from pydantic import SecretStr
from sqlalchemy import text

from embedded.valkey import Valkey
from foundation.broker_tls import split_tls
from foundation.postgresql.database import create_engine
from foundation.redis import create_redis
from foundation.settings import BrokerSettings, DatabaseSettings, RedisSettings
from live.hints import celery_app
from schema.migrations import engine_is_up_to_date, needed_revision
from schema.migrations.__main__ import migrate
from tests.certificates import make_certificates
from tests.tls_servers import HOST, OTHER_HOST, postgresql_with_tls, tls_in_front_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture(scope="module")
def own(folder: Path) -> Path:
    """A certificate for localhost."""
    return folder / "make_run"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another authority's."""
    return make_certificates(tmp_path_factory.mktemp("foreign")) / "make_run" / "authority.pem"


@pytest.fixture(scope="module")
def port(own: Path) -> Iterator[int]:
    with postgresql_with_tls(own) as port:
        yield port


async def connect(url: str) -> tuple[bool, str]:
    """Whether PostgreSQL sees TLS on the pool's connection, and its version."""
    engine = create_engine(DatabaseSettings(database_url=SecretStr(url)), "tests")
    try:
        async with engine.connect() as connection:
            seen = await connection.execute(text("SELECT ssl, version FROM pg_stat_ssl WHERE pid = pg_backend_pid()"))
            row = seen.one()
            return row.ssl, row.version
    finally:
        await engine.dispose()


@pytest.mark.postgresql
async def test_the_whole_schema_is_made_and_used_over_a_verified_connection(port: int, own: Path) -> None:
    url = f"postgresql://askmesh:askmesh@{HOST}:{port}/postgres?sslmode=verify-full&sslrootcert={own}/authority.pem"
    await migrate(url)
    assert await connect(url) == (True, "TLSv1.3")
    engine = create_engine(DatabaseSettings(database_url=SecretStr(url)), "tests")
    assert await engine_is_up_to_date(engine, needed_revision())
    await engine.dispose()


@pytest.mark.postgresql
async def test_a_client_certificate_is_sent(port: int, own: Path) -> None:
    files = f"sslrootcert={own}/authority.pem&sslcert={own}/certificate.pem&sslkey={own}/key.pem"
    assert (await connect(f"postgresql://askmesh:askmesh@{HOST}:{port}/postgres?sslmode=verify-full&{files}"))[0]


@pytest.mark.postgresql
@pytest.mark.parametrize("mode", ["verify-full", "verify-ca"])
async def test_a_certificate_of_another_authority_is_refused(port: int, foreign: Path, mode: str) -> None:
    with pytest.raises(ssl.SSLCertVerificationError):
        await connect(f"postgresql://askmesh:askmesh@{HOST}:{port}/postgres?sslmode={mode}&sslrootcert={foreign}")


@pytest.mark.postgresql
async def test_a_certificate_of_another_host_is_refused(port: int, own: Path) -> None:
    url = f"postgresql://askmesh:askmesh@{OTHER_HOST}:{port}/postgres?sslrootcert={own}/authority.pem&sslmode="
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        await connect(url + "verify-full")
    assert (await connect(url + "verify-ca"))[0]


async def test_redis_by_tls_is_verified(valkey: Valkey, folder: Path, own: Path, foreign: Path) -> None:
    socket_path = valkey.url().removeprefix("unix://").partition("?")[0]

    async def ping(port: int, authority: Path) -> bool:
        url = f"rediss://{HOST}:{port}/0?ssl_ca_certs={authority}"
        redis = create_redis(RedisSettings(redis_url=SecretStr(url)))
        try:
            return bool(await redis.ping())
        finally:
            await redis.aclose()

    async with tls_in_front_of(socket_path, own) as port:
        assert await ping(port, own / "authority.pem")
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await ping(port, foreign)
    async with tls_in_front_of(socket_path, folder / "api_service") as port:
        with pytest.raises(Exception, match="Hostname mismatch"):
            await ping(port, folder / "authority.pem")


def broker(url: str) -> Celery:
    return celery_app("tests", BrokerSettings(broker_url=SecretStr(url)))


def connects(app: Celery) -> None:
    with app.connection_for_write() as connection:
        connection.connect()


@pytest.mark.parametrize("scheme", ["rediss", "amqps"])
async def test_a_broker_by_tls_is_verified(valkey: Valkey, folder: Path, own: Path, foreign: Path, scheme: str) -> None:
    socket_path = valkey.broker_url.removeprefix("redis+socket://").partition("?")[0]
    async with (
        tls_in_front_of(socket_path, own) as port,
        tls_in_front_of(socket_path, folder / "api_service") as port_of_another,
    ):
        url = f"{scheme}://{HOST}:{port}/1?ssl_ca_certs="
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(connects, broker(f"{url}{foreign}"))
        other = f"{scheme}://{HOST}:{port_of_another}/1?ssl_ca_certs={folder}/authority.pem"
        with pytest.raises(Exception, match="Hostname mismatch"):
            await asyncio.to_thread(connects, broker(other))
        with pytest.raises(Exception, match="CERTIFICATE_VERIFY_FAILED"):
            await asyncio.to_thread(connects, broker(f"{scheme}://{HOST}:{port}/1"))
        if scheme == "rediss":
            await asyncio.to_thread(connects, broker(f"{url}{own}/authority.pem"))


@pytest.mark.parametrize("url", ["amqp://user:pw@host//?heartbeat=5", "redis://host:6379/1", "redis+socket:///s?v=1"])
def test_a_url_without_tls_stays_as_it_is(url: str) -> None:
    assert split_tls(url) == (url, None)


def test_the_rest_of_a_broker_url_stays() -> None:
    url, tls = split_tls(
        "amqps://user:p%40ss@host:5671//?heartbeat=5&ssl_ca_certs=/ca.pem&ssl_certfile=/c&ssl_keyfile=/k"
    )
    assert url == "amqps://user:p%40ss@host:5671//?heartbeat=5"
    assert tls == {
        "cert_reqs": ssl.CERT_REQUIRED,
        "server_hostname": "host",
        "ca_certs": "/ca.pem",
        "certfile": "/c",
        "keyfile": "/k",
    }
