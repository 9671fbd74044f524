import pytest
from pydantic import SecretStr

from foundation.redis import create_redis
from foundation.settings import BrokerSettings, RedisSettings, SettingsError, load
from live.hints import celery_app


@pytest.mark.parametrize(
    "url",
    [
        *("redis://localhost:6379/0", "redis://localhost", "redis://:dozen-letters@redis:6379", "redis://[::1]:1/2"),
        *("unix:///run/valkey.sock?db=0", "redis://user:p%40ss%2Fword-xyz@redis/1?socket_timeout=0.5&protocol=3"),
        *("rediss://:dozen-letters@redis:6379/0?ssl_cert_reqs=none", "redis://localhost?health_check_interval=30"),
    ],
)
async def test_urls_that_redis_py_takes_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ASKMESH_REDIS_URL", url)
    redis = create_redis(load(RedisSettings))
    assert redis.connection_pool.make_connection()  # type: ignore[no-untyped-call] # not in redis-py's types
    await redis.aclose()


@pytest.mark.parametrize(
    "url",
    [
        *("amqp://localhost//", "amqp://localhost:5672/vhost", "amqp://me:p%40ss%2Fword-xyz@rabbitmq:5672//"),
        *(
            "amqp://[::1]:5672//",
            "amqps://me:dozen-letters@rabbitmq//",
            "redis://localhost:6379/1",
            "redis://localhost",
        ),
        *("redis+socket:///run/valkey.sock?virtual_host=1", "rediss://:dozen-letters@redis/1?ssl_cert_reqs=required"),
    ],
)
def test_urls_that_kombu_takes_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("ASKMESH_BROKER_URL", url)
    app = celery_app("tests", load(BrokerSettings))
    with app.connection_for_write() as connection:
        assert connection.transport
        assert connection.info()


REFUSED = [
    ("localhost:6379", "begins with", "://"),
    ("redis://:sesame-sesame@h:63a/0", "port", "number"),
    ("redis://:sesame-sesame@[::1/0", "port", "brackets"),
    ("redis://:sesame/sesame@h/0", "port", "%2F"),
    ("redis://:12/sesame@h/0", "port", "%2F"),
    ("redis://:sesame-sesame@h/0?colour=red", "colour", "leave it out"),
]


@pytest.mark.parametrize(
    ("url", "name", "remedy"),
    [
        *REFUSED,
        ("http://h", "begins with", "redis://"),
        ("redis://localhost?socket_timeout=soon", "socket_timeout", "number"),
        ("redis://localhost?decode_responses=true", "decode_responses", "leave it out"),
        ("rediss://localhost?ssl_cert_reqs=never", "ssl_cert_reqs", "required"),
        ("rediss://localhost?ssl_ca_certs=/nowhere", "ssl_ca_certs", "no such file"),
    ],
)
def test_other_urls_of_redis_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, remedy: str
) -> None:
    monkeypatch.setenv("ASKMESH_REDIS_URL", url)
    with pytest.raises(SettingsError) as refused:
        load(RedisSettings)
    _is_one_line(str(refused.value), "ASKMESH_REDIS_URL", name, remedy)


@pytest.mark.parametrize(
    ("url", "name", "remedy"),
    [
        *REFUSED,
        ("amqp://guest:sesame-sesame@h:99999//", "port", "65535"),
        ("amqp://localhost//?heartbeat=10", "heartbeat", "leave it out"),
        ("redis://localhost/one", "database", "number"),
        ("redis+socket:///run/sock?virtual_host=one", "database", "number"),
        ("amqps://localhost//?ssl_cert_reqs=none", "ssl_cert_reqs", "required"),
        ("amqps://localhost//?ssl_ca_certs=/nowhere", "ssl_ca_certs", "no such file"),
        ("sqs://localhost", "begins with", "amqp://"),
    ],
)
def test_other_urls_of_the_broker_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, url: str, name: str, remedy: str
) -> None:
    monkeypatch.setenv("ASKMESH_BROKER_URL", url)
    with pytest.raises(SettingsError) as refused:
        load(BrokerSettings)
    _is_one_line(str(refused.value), "ASKMESH_BROKER_URL", name, remedy)


def _is_one_line(said: str, setting: str, name: str, remedy: str) -> None:
    assert said.startswith(f"{setting}: ")
    assert name in said
    assert remedy in said
    assert "\n" not in said
    assert "sesame" not in said


def test_a_certificate_of_the_broker_is_wanted_whether_or_not_its_url_says_so() -> None:
    for query in ("", "?ssl_cert_reqs=CERT_REQUIRED"):
        app = celery_app("tests", BrokerSettings(broker_url=SecretStr(f"rediss://localhost/1{query}")))
        assert app.conf.broker_use_ssl["ssl_check_hostname"]
        with app.connection_for_write() as connection:
            assert "ssl_cert_reqs" not in connection.as_uri()
