"""How commands show rows to people."""

from collections.abc import Iterable, Sequence
from datetime import timedelta

import click


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Columns as wide as what is in them, two spaces apart."""
    cells = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(duration: timedelta) -> str:
    """In whole seconds, as 1 day, 2:03:04."""
    return str(timedelta(seconds=int(duration.total_seconds())))
