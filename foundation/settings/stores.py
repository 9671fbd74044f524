"""Where PostgreSQL, Redis and the broker are."""

from collections.abc import Callable
from typing import Annotated

from pydantic import AfterValidator, Field, SecretStr

from foundation.postgresql.url import parse_postgresql_url
from foundation.settings.base import Group
from foundation.settings.store_urls import check_broker_url, check_redis_url

LEASE_CONNECTIONS = 2
"""Connections of a worker to PostgreSQL beside its pool, for its lease."""


def _url(check: Callable[[str], object]) -> AfterValidator:
    """``check`` raises ValueError."""

    def validate(value: SecretStr) -> SecretStr:
        check(value.get_secret_value())
        return value

    return AfterValidator(validate)


class DatabaseSettings(Group):
    """A URL can hold a password, so it is never printed; so also below."""

    database_url: Annotated[SecretStr, _url(parse_postgresql_url)] = Field(
        description="PostgreSQL, as postgresql://user:password@host:5432/name, with the parameters of"
        " docs/operations.md. Empty, with `make run`: the embedded one."
    )
    database_pool_size: int = Field(
        10,
        ge=2,
        le=1000,
        description="Most connections to PostgreSQL for each process; a worker opens 2 more for its lease.",
    )


class RedisSettings(Group):
    redis_url: Annotated[SecretStr, _url(check_redis_url)] = Field(
        description="Redis or Valkey, as redis://host:6379/0. Empty, with `make run`: the embedded one."
    )


class BrokerSettings(Group):
    broker_url: Annotated[SecretStr, _url(check_broker_url)] = Field(
        description="Celery's broker, as amqp://user:password@host:5672// or redis://host:6379/1."
        " Empty, with `make run`: the embedded Valkey."
    )
