"""``askmesh status``: who waits, who works, and who disagrees."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import click
import orjson
from sqlalchemy.ext.asyncio import AsyncEngine

from fleet import processes
from fleet.processes import ProcessInfo
from operations.running import run
from operations.tables import age, show_table
from questions.overview import OwnerQueueSummary, QueueSummary, read_leases, read_queue, read_queue_by_owner


@dataclasses.dataclass(frozen=True, slots=True)
class Status:
    """The mesh at one moment."""

    queue: QueueSummary
    owners: Sequence[OwnerQueueSummary]
    processes: Sequence[ProcessInfo]
    leases: Mapping[str, float]
    """Seconds that are left of each worker's, by its name."""
    differences: Sequence[str]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@click.option("--tenants", type=click.IntRange(1, 10_000), default=10, show_default=True, help="Most tenants to list.")
def status(as_json: bool, tenants: int) -> None:
    """Show the queue by tenant, every process with what it says of itself, and settings that differ."""
    found = run(lambda engine: _read(engine, tenants))
    if as_json:
        click.echo(orjson.dumps(dataclasses.asdict(found)))
        return
    now = datetime.now(UTC)
    queue = found.queue
    oldest = f", the oldest for {age(now - queue.oldest)}" if queue.oldest else ""
    click.echo(f"{queue.due} due{oldest}; {queue.waiting} wait for a time; {queue.in_progress} in progress\n")
    owners = [(each.owner or "", str(each.queued), str(each.in_progress)) for each in found.owners]
    show_table(("tenant", "queued", "in progress"), owners)
    click.echo()
    rows = [
        (each.service, each.name, each.version, age(now - each.started_at), _words(each, found.leases))
        for each in found.processes
    ]
    show_table(("service", "process", "version", "runs for", "state"), rows)
    for difference in found.differences:
        click.echo(f"\nsettings differ: {difference}")


async def _read(engine: AsyncEngine, most: int) -> Status:
    running = await processes.running(engine)
    return Status(
        await read_queue(engine),
        await read_queue_by_owner(engine, most),
        running,
        {name: round(left.total_seconds(), 1) for name, left in (await read_leases(engine)).items()},
        _differences(running),
    )


def _differences(running: Sequence[ProcessInfo]) -> list[str]:
    """Each setting that is not the same everywhere, with its values and who has them."""
    holders: dict[str, dict[str, list[str]]] = {}
    for process in running:
        for name, value in process.settings.items():
            holders.setdefault(name, {}).setdefault(str(value), []).append(f"{process.service} {process.name}")
    return [
        f"{name} is " + ", ".join(f"{value!r} in {' and '.join(who)}" for value, who in sorted(values.items()))
        for name, values in sorted(holders.items())
        if len(values) > 1
    ]


def _words(process: ProcessInfo, leases: Mapping[str, float]) -> str:
    state = dict(process.state)
    if process.service == "worker_service":
        left = leases.get(process.name)
        state["lease"] = "none" if left is None else f"for {left:g} s"
    return ", ".join(f"{name} {value}" for name, value in state.items())
