"""The commands. Each prints what it did; what was asked or answered is never shown."""

import dataclasses
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

import click
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from foundation.settings import QuestionSettings, SettingsError, effective
from operations.certificates import certificates
from operations.keys import keys
from operations.restored import SKIPPED, become_another_mesh
from operations.running import Age, run, settings
from operations.status import status
from operations.tables import age, show_table
from questions import operating
from questions.operating import OperatorFilter, QuestionSelection, QuestionSummary

_COLUMNS = (
    *("id", "answer", "tenant", "state", "reason", "age", "attempt", "waits", "losses", "interruptions", "holder"),
    *("request", "replayed as"),
)


@click.group()
def askmesh() -> None:
    """Look after askmesh. Beside `make run` it finds the database; elsewhere set ASKMESH_DATABASE_URL."""


askmesh.add_command(keys)
askmesh.add_command(certificates)
askmesh.add_command(status)


@askmesh.command()
def restored() -> None:
    """Make a restored database safe to use; run it once, before services start.

    New ids begin 1,000,000,000 beyond the backup's, so that none is given out twice. The mesh gets a new id of its own,
    so that it reads nothing in Redis of before the restore, nor of the mesh from which the backup came.
    """
    click.echo(f"{run(become_another_mesh)} sequences go on {SKIPPED:,} further")
    click.echo("the mesh has a new id in Redis")


@askmesh.command("settings")
def show_settings() -> None:
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
@click.argument("selection", type=click.Choice([str(s) for s in QuestionSelection]), default="stuck")
@click.option("--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="Most to list.")
@click.option("--tenant", help="Only questions of this tenant.")
@click.option("--id", "ids", type=click.IntRange(1), multiple=True, help="Only this question; may be given again.")
@click.option("--answer", type=click.IntRange(1), help="Only questions with this answer, as workers' logs name it.")
@click.option("--request", help="Only what was asked with this X-Request-ID, among the newest million.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(  # noqa: PLR0917 - click passes them by name
    selection: str,
    limit: int,
    tenant: str | None,
    ids: tuple[int, ...],
    answer: int | None,
    request: str | None,
    as_json: bool,
) -> None:
    """List the newest questions of a SELECTION.

    \b
    stuck   not answered, and waiting for longer than a minute, backing off, lost or suspect (the default)
    failed  ended as failed, whatever the reason
    poison  set aside because they broke workers or engines again and again
    all     every question
    """  # noqa: D301 - click looks for the character, not for its name
    filters = OperatorFilter(ids=ids or None, owner=tenant, answer_id=answer, request_id=request)
    entries = run(lambda engine: operating.list_questions(engine, QuestionSelection(selection), limit, filters))
    _show(entries, as_json)


@questions.command()
@click.argument("ids", type=click.IntRange(1), nargs=-1)
@click.option(
    "--all", "selection", type=click.Choice(["failed", "poison"]), help="Replay all that failed, or all poison."
)
def replay(ids: tuple[int, ...], selection: str | None) -> None:
    """Ask questions again that ended without a whole answer, each under a new id.

    The old question keeps its final state, and whoever reads it is told the new id. The new one is generated anew, by
    the settings that workers have now.
    """
    if bool(ids) == bool(selection):
        raise click.UsageError("name question ids, or --all failed or --all poison")
    wait = settings(QuestionSettings).max_wait_seconds

    async def work(engine: AsyncEngine) -> list[tuple[int, int | None]]:
        chosen: Iterable[int] = ids
        if selection:
            entries = await operating.list_questions(engine, QuestionSelection(selection), 100_000)
            chosen = sorted(entry.id for entry in entries if entry.replayed_as is None)
        return [(old, await operating.replay(engine, old, wait)) for old in chosen]

    replayed = run(work)
    for old, new in replayed:
        click.echo(
            f"{old} is asked again as {new}" if new else f"{old} is not there, not ended, or was replayed before"
        )
    click.echo(f"{sum(new is not None for _, new in replayed)} replayed")
    if any(new is None for _, new in replayed):
        raise SystemExit(1)


@questions.command()
@click.option("--older-than", type=Age(), required=True, help="Age since they ended, as 30d or 12h.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def purge(older_than: timedelta, yes: bool) -> None:
    """Remove questions that ended at least so long ago, and the answers that no question refers to any more."""
    if not yes:
        click.confirm(f"Remove every final question that ended more than {older_than} ago, for ever?", abort=True)
    removed = run(lambda engine: operating.purge(engine, older_than))
    click.echo(f"{removed} removed")


def _show(entries: Sequence[QuestionSummary], as_json: bool) -> None:
    if as_json:
        for entry in entries:
            click.echo(orjson.dumps(dataclasses.asdict(entry)))
        return
    now = datetime.now(UTC)
    rows = [
        (
            str(entry.id),
            str(entry.answer_id),
            entry.owner,
            str(entry.state),
            entry.error_reason or "",
            age(now - entry.created_at),
            str(entry.attempt),
            str(entry.waits),
            str(entry.losses),
            str(entry.interruptions),
            entry.holder or "",
            entry.request_id or "",
            str(entry.replayed_as or ""),
        )
        for entry in entries
    ]
    show_table(_COLUMNS, rows)
    click.echo(f"{len(entries)} listed")
