"""What the commands share: ages, settings, and work with PostgreSQL."""

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TypeVar

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.postgresql.database import create_engine
from foundation.postgresql.errors import DATABASE_ERRORS, explain, is_outage
from foundation.settings import (
    PREFIX,
    SECRETS,
    DatabaseSettings,
    EmbeddedSettings,
    QuestionSettings,
    SettingsError,
    load,
)

T = TypeVar("T")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Age(click.ParamType[timedelta]):
    """An age such as 90s, 15m, 12h or 30d."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Raise click's usage error unless the value is a whole number and a unit."""
        match = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age: give a whole number and s, m, h or d, as in 30d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


G = TypeVar("G", DatabaseSettings, EmbeddedSettings, QuestionSettings)


def settings(group: type[G]) -> G:
    """The settings of a group. A wrong one ends the command."""
    try:
        return load(group)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def is_given(setting: str) -> bool:
    """Whether the environment or a secret says what this setting is."""
    return bool(os.environ.get(PREFIX + setting)) or (SECRETS / f"{PREFIX}{setting}".lower()).exists()


def _database() -> DatabaseSettings:
    """As the environment or a secret says, else as a running `make run` has left it in its data folder."""
    if not is_given("DATABASE_URL"):
        address = settings(EmbeddedSettings).data_dir / "database_url"
        try:
            os.environ["ASKMESH_DATABASE_URL"] = address.read_text()
        except FileNotFoundError:
            raise click.ClickException(
                "no database: set ASKMESH_DATABASE_URL, or start `make run` in this folder"
            ) from None
    return settings(DatabaseSettings)


def run(work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    """What the work returns, done with connections to PostgreSQL. An absent server ends the command."""
    database = _database()

    async def connected() -> T:
        engine = create_engine(database, "askmesh", planned_freely=True)
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(connected())
    except DATABASE_ERRORS as error:
        if not is_outage(error):
            raise
        raise click.ClickException(f"PostgreSQL, at ASKMESH_DATABASE_URL: {explain(error)}") from None
