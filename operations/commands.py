"""The commands. Each prints what it did; what was asked or answered is never shown."""

import asyncio
import dataclasses
import os
import re
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TypeVar

import click
import orjson
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.database import create_engine
from foundation.settings import DatabaseSettings, EmbeddedSettings, QuestionSettings, SettingsError, effective, load
from operations.certificates import certificates
from operations.restored import SKIPPED, empty_redis, skip_numbers
from questions import operating
from questions.operating import Entry, Selection

T = TypeVar("T")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_COLUMNS = ("id", "state", "reason", "age", "attempt", "waits", "losses", "interruptions", "holder", "replayed as")


class Age(click.ParamType[timedelta]):
    """An age such as 90s, 15m, 12h or 30d."""

    name = "age"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        """Raise click's usage error unless the value is a whole number and a unit."""
        match = re.fullmatch(r"(\d{1,6})([smhd])", str(value))
        if match is None:
            self.fail(f"{value!r} is no age: give a whole number and s, m, h or d, as in 30d", param, ctx)
        return timedelta(**{_UNITS[match[2]]: int(match[1])})


@click.group()
def askmesh() -> None:
    """Look after askmesh. Beside `make run` it finds the database; elsewhere set ASKMESH_DATABASE_URL."""


askmesh.add_command(certificates)


@askmesh.command()
def restored() -> None:
    """Make a restored database safe to use; run it once, before services start.

    New ids begin 1,000,000,000 beyond the backup's, so that none is given out twice, and Redis is emptied.
    """

    async def work(engine: AsyncEngine) -> tuple[int, bool]:
        return await skip_numbers(engine), await empty_redis()

    sequences, emptied = _run(work)
    click.echo(f"{sequences} sequences go on {SKIPPED:,} further")
    click.echo(
        "Redis is empty" if emptied else "ASKMESH_REDIS_URL is not set: empty Redis yourself; `make run` has done"
    )


@askmesh.command()
def settings() -> None:
    """Print every setting as the environment gives it here, secrets as ***."""
    try:
        for name, value in effective():
            click.echo(f"{name}={value}")
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


@askmesh.group()
def questions() -> None:
    """List, replay and purge questions."""


@questions.command("list")
@click.argument("selection", type=click.Choice([str(s) for s in Selection]), default="stuck")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Most to list.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(selection: str, limit: int, as_json: bool) -> None:
    r"""List the newest questions of a SELECTION.

    \b
    stuck   not answered, and waiting for longer than a minute, backing off, lost or suspect (the default)
    failed  ended as failed, whatever the reason
    poison  set aside because they broke workers or engines again and again
    all     every question
    """
    entries = _run(lambda engine: operating.list_questions(engine, Selection(selection), limit))
    _show(entries, as_json)


@questions.command()
@click.argument("ids", type=click.IntRange(1), nargs=-1)
@click.option(
    "--all", "selection", type=click.Choice(["failed", "poison"]), help="Replay all that failed, or all poison."
)
def replay(ids: tuple[int, ...], selection: str | None) -> None:
    """Ask questions again that ended without a whole answer, each under a new id.

    The old question keeps its final state, and whoever reads it is told the new id.
    """
    if bool(ids) == bool(selection):
        raise click.UsageError("name question ids, or --all failed or --all poison")
    wait = _settings(QuestionSettings).max_wait_seconds

    async def work(engine: AsyncEngine) -> list[tuple[int, int | None]]:
        chosen: Iterable[int] = ids
        if selection:
            entries = await operating.list_questions(engine, Selection(selection), 100_000)
            chosen = sorted(entry.id for entry in entries if entry.replayed_as is None)
        return [(old, await operating.replay(engine, old, wait)) for old in chosen]

    replayed = _run(work)
    for old, new in replayed:
        click.echo(
            f"{old} is asked again as {new}" if new else f"{old} is not there, not ended, or was replayed before"
        )
    click.echo(f"{sum(new is not None for _, new in replayed)} replayed")
    if any(new is None for _, new in replayed):
        raise SystemExit(1)


@questions.command()
@click.option("--older-than", type=Age(), required=True, help="Age since they were asked, as 30d or 12h.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(older_than: timedelta, yes: bool) -> None:
    """Remove final questions of at least an age, and the answers that no question refers to any more."""
    if not yes:
        click.confirm(f"Remove every final question asked more than {older_than} ago, for ever?", abort=True)
    removed = _run(lambda engine: operating.purge(engine, older_than))
    click.echo(f"{removed} removed")


def _show(entries: Sequence[Entry], as_json: bool) -> None:
    if as_json:
        for entry in entries:
            click.echo(orjson.dumps(dataclasses.asdict(entry)))
        return
    now = datetime.now(UTC)
    rows = [_COLUMNS] + [
        (
            str(entry.id),
            str(entry.state),
            entry.error_reason or "",
            _age(now - entry.created_at),
            str(entry.attempt),
            str(entry.waits),
            str(entry.losses),
            str(entry.interruptions),
            entry.holder or "",
            str(entry.replayed_as or ""),
        )
        for entry in entries
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    click.echo(f"{len(entries)} listed")


def _age(age: timedelta) -> str:
    return str(timedelta(seconds=int(age.total_seconds())))


G = TypeVar("G", DatabaseSettings, EmbeddedSettings, QuestionSettings)


def _settings(group: type[G]) -> G:
    try:
        return load(group)
    except SettingsError as error:
        raise click.ClickException(str(error)) from None


def _database() -> DatabaseSettings:
    """As the environment says, else as a running `make run` has left it in its data folder."""
    if not os.environ.get("ASKMESH_DATABASE_URL"):
        address = _settings(EmbeddedSettings).data_dir / "database_url"
        try:
            os.environ["ASKMESH_DATABASE_URL"] = address.read_text()
        except FileNotFoundError:
            raise click.ClickException(
                "no database: set ASKMESH_DATABASE_URL, or start `make run` in this folder"
            ) from None
    return _settings(DatabaseSettings)


def _run(work: Callable[[AsyncEngine], Awaitable[T]]) -> T:
    database = _database()

    async def connected() -> T:
        engine = create_engine(database, "askmesh")
        try:
            return await work(engine)
        finally:
            await engine.dispose()

    try:
        return asyncio.run(connected())
    except (OSError, OperationalError, InterfaceError) as error:
        raise click.ClickException(f"PostgreSQL, at ASKMESH_DATABASE_URL: {type(error).__name__}") from error
