"""``askmesh keys``: who may ask."""

import dataclasses
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

import click
import orjson
from pydantic import ValidationError

from operations.running import Age, run
from operations.tables import show_table
from owners import api_keys
from owners.api_keys import TENANT, ApiKey
from owners.limits import LimitOverrides
from owners.roles import Role

_COLUMNS = ("id", "key begins", "tenant", "role", "created", "expires", "state", "limits")


class Tenant(click.ParamType[str]):
    """The name of a tenant."""

    name = "tenant"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Raise click's usage error unless the value can be a tenant's name."""
        if not TENANT.fullmatch(str(value)):
            self.fail(f"{value!r} is no name: give 1 to 255 visible ASCII characters without a space", param, ctx)
        return str(value)


class Limit(click.ParamType[tuple[str, int | None]]):
    """A limit and its value, as streams=3. Of ``default``: None."""

    name = "limit"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, int | None]:
        """Raise click's usage error unless the limit is there and can have the value."""
        name, _, number = str(value).partition("=")
        if name not in LimitOverrides.model_fields:
            limits = ", ".join(LimitOverrides.model_fields)
            self.fail(f"{value!r} is no limit: give one of {limits} as NAME=NUMBER", param, ctx)
        if number == "default":
            return name, None
        try:
            checked = LimitOverrides.model_validate_strings({name: number})
        except ValidationError as error:
            what = error.errors()[0]["msg"].removeprefix("Input ")
            self.fail(f"{value!r}: {number!r} {what}; 0 is no limit, default what the setting says", param, ctx)
        return name, getattr(checked, name)


@click.group()
def keys() -> None:
    """Create, list, limit, rotate and revoke API keys."""


@keys.command()
@click.option("--tenant", type=Tenant(), required=True, help="Whose key it is: questions belong to tenants.")
@click.option(
    "--role", type=click.Choice([str(role) for role in Role]), default=str(Role.USER), show_default=True, help="Role."
)
@click.option("--expires", type=Age(), help="Time for which it is valid, as 90d. Without: until it is revoked.")
@click.option(
    "--limit",
    "limits",
    type=Limit(),
    multiple=True,
    metavar="NAME=NUMBER",
    help="A limit of its own, as requests_per_minute=60; can be repeated. Without: the settings hold.",
)
@click.option("--json", "as_json", is_flag=True, help="The key and all about it as JSON.")
def create(
    tenant: str, role: str, expires: timedelta | None, limits: Sequence[tuple[str, int | None]], as_json: bool
) -> None:
    """Create a key and print it. It is shown this once: only its hash is kept."""
    own = LimitOverrides.model_validate(dict(limits))
    key, made = run(lambda engine: api_keys.create(engine, tenant, Role(role), expires, own))
    _reveal(key, made, as_json)


@keys.command("list")
@click.option("--tenant", type=Tenant(), help="Only keys of this tenant.")
@click.option("--all", "all_", is_flag=True, help="Those too that have expired or were revoked.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def list_(tenant: str | None, all_: bool, as_json: bool) -> None:
    """List the keys that are valid."""
    listed = run(lambda engine: api_keys.list_keys(engine, tenant, all_=all_))
    if as_json:
        for key in listed:
            click.echo(orjson.dumps(dataclasses.asdict(key)))
    else:
        _show(listed)


@keys.command()
@click.argument("key_id", metavar="ID", type=click.IntRange(1))
@click.option("--overlap", type=Age(), default="0s", help="Time that the old key has left, as 1d. Without: none.")
@click.option("--expires", type=Age(), help="Time for which the new key is valid. Without: as long as the old one.")
@click.option("--json", "as_json", is_flag=True, help="The key and all about it as JSON.")
def rotate(key_id: int, overlap: timedelta, expires: timedelta | None, as_json: bool) -> None:
    """Create a key in place of another, whose tenant, role and limits it has, and print it."""
    rotated = run(lambda engine: api_keys.rotate(engine, key_id, overlap, expires))
    if rotated is None:
        raise _no_such_key(key_id)
    _reveal(*rotated, as_json)


@keys.command()
@click.argument("key_id", metavar="ID", type=click.IntRange(1))
@click.argument("limits", metavar="NAME=NUMBER...", type=Limit(), nargs=-1, required=True)
def limit(key_id: int, limits: Sequence[tuple[str, int | None]]) -> None:
    """Change limits of a key; every process knows within 5 s.

    Those that are not named stay. 0 is no limit; default is what the setting says.

    \b
    requests_per_minute   tokens_per_minute   concurrent_questions   streams
    queued_questions      tokens_per_day      tokens_per_month
    """  # noqa: D301 - click looks for the character, not for its name
    changed = run(lambda engine: api_keys.limit(engine, key_id, dict(limits)))
    if changed is None:
        raise _no_such_key(key_id)
    click.echo(f"{key_id} has {_limits(changed.limits) or 'no limits of its own'}")


@keys.command()
@click.argument("key_id", metavar="ID", type=click.IntRange(1))
def revoke(key_id: int) -> None:
    """End a key. Every process refuses it within 5 s."""
    if not run(lambda engine: api_keys.revoke(engine, key_id)):
        raise _no_such_key(key_id)
    click.echo(f"{key_id} is revoked")


def _no_such_key(key_id: int) -> click.ClickException:
    return click.ClickException(f"no valid key has the id {key_id}: see `askmesh keys list --all`")


def _reveal(key: str, made: ApiKey, as_json: bool) -> None:
    if as_json:
        click.echo(orjson.dumps({"key": key, **dataclasses.asdict(made)}))
        return
    # The key alone goes to standard output, so that a script can take it from there.
    click.echo(key)
    until = f"until {_moment(made.expires_at)}" if made.expires_at else "until it is revoked"
    own = f", {_limits(made.limits)}" if made.limits else ""
    click.echo(f"Key {made.id} of {made.tenant}, {made.role}{own}, valid {until}. It is not shown again.", err=True)


def _show(listed: Sequence[ApiKey]) -> None:
    rows = [
        (
            str(key.id),
            f"{key.prefix}…",
            key.tenant,
            str(key.role),
            _moment(key.created_at),
            _moment(key.expires_at) if key.expires_at else "never",
            "valid" if key.valid else "revoked" if key.revoked_at else "expired",
            _limits(key.limits),
        )
        for key in listed
    ]
    show_table(_COLUMNS, rows)
    click.echo(f"{len(listed)} listed")


def _limits(limits: Mapping[str, int]) -> str:
    return " ".join(f"{name}={limits[name]}" for name in sorted(limits))


def _moment(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M}"
