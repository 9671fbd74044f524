import pytest

from foundation import settings
from foundation.loopback import is_loopback
from foundation.settings import BrokerSettings, DatabaseSettings, RedisSettings, SettingsError, load
from foundation.settings.secret_urls import weakness

STRONG = "f3b2c91e7d40"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://askmesh:{STRONG}@db/askmesh",
        "postgresql://askmesh@db/askmesh",
        "postgresql://postgres:postgres@localhost/askmesh",
        "postgresql://postgres:postgres@127.0.0.1/askmesh",
        "postgresql://postgres:x@[::1]/askmesh",
        "postgresql://postgres@/askmesh?host=/run/sockets",
        "postgresql://postgres:postgres@localhost,[::1]/askmesh",
        f"redis://:{STRONG}@redis:6379/0",
        "redis://localhost:6379",
        "unix:///run/valkey.sock?db=0",
        "redis+socket:///run/valkey.sock",
        f"amqps://askmesh:{STRONG}@rabbitmq//",
        "sk-a-key-that-is-no-url",
    ],
)
def test_strong_ones_and_those_of_this_machine_pass(url: str) -> None:
    assert weakness(url) is None


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://postgres:postgres@db/askmesh",
        "postgresql://askmesh:Postgres123!@db/askmesh",
        "postgresql://administrator:administrator@db/askmesh",
        "postgresql://someone-else:%73omeone-else@db/askmesh",
        "postgresql://askmesh:f3b2c91e7d4@db/askmesh",
        "postgres://postgres:postgres@db/askmesh",
        "postgresql://postgres:postgres@127.0.0.1,db/askmesh",
        "postgresql:///askmesh?host=db&user=postgres&password=postgres",
        "amqp://guest:guest@rabbitmq//",
        "amqp://rabbitmq//",
        "redis://redis:6379/0",
        "rediss://:changeme@10.0.0.7:6379/0",
    ],
)
def test_weak_ones_do_not(url: str) -> None:
    problem = weakness(url)
    assert problem is not None
    assert "f3b2" not in problem


@pytest.mark.parametrize(
    ("group", "name", "url"),
    [
        (DatabaseSettings, "ASKMESH_DATABASE_URL", "postgresql://askmesh:changeme@db/askmesh"),
        (BrokerSettings, "ASKMESH_BROKER_URL", "amqp://guest:guest@rabbitmq//"),
        (RedisSettings, "ASKMESH_REDIS_URL", "redis://redis:6379"),
    ],
)
def test_they_stop_the_start_with_the_remedy_unless_allowed(
    group: type[settings.Group], name: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, url)
    with pytest.raises(
        SettingsError, match=rf"^{name}: has .*openssl rand.*ASKMESH_ALLOW_WEAK_SECRETS=true"
    ) as refused:
        load(group)
    assert "changeme" not in str(refused.value)
    monkeypatch.setenv("ASKMESH_ALLOW_WEAK_SECRETS", "true")
    load(group)


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("localhost", True),
        ("127.8.9.1", True),
        ("::1", True),
        ("[::1]", True),
        ("0.0.0.0", False),
        ("::", False),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("", False),
    ],
)
def test_which_addresses_are_this_machines_own(host: str, own: bool) -> None:
    assert is_loopback(host) is own
