"""The measured figures, as a table in Markdown and as JSON."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from benchmarks import cpu

# The column of each process, in the order in which a question meets them.
_COLUMNS = (
    "api_service",
    "PostgreSQL",
    "RabbitMQ",
    "Redis",
    "worker_service",
    "llm_service",
    "bare parts",
    "fake model",
    "vLLM",
    "load",
)


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it must reach. ``at_most``: otherwise at least."""

    row: str
    what: str
    value: float
    unit: str = ""
    bar: float | None = None
    at_most: bool = True
    detail: str = ""
    cpu: Mapping[str, float] = field(default_factory=dict)
    """CPU milliseconds a request, by process."""

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached; a figure without a bar only tells."""
        return self.bar is None or (self.value <= self.bar if self.at_most else self.value >= self.bar)

    @property
    def reached(self) -> float | None:
        """How good it is, as a multiple of the bar: 1 and more meet it. None without a bar."""
        if self.bar is None:
            return None
        return self.bar / max(self.value, self.bar / 100) if self.at_most else self.value / self.bar


@dataclass(frozen=True)
class BenchmarkRow:
    """The figures of one row. ``others``: cores that other work on the machine used while it was measured."""

    name: str
    figures: Sequence[Figure]
    seconds: float
    others: float
    error: str = ""
    """Why it could not be measured to its end."""

    @property
    def is_met(self) -> bool:
        """Whether all of its bars are reached."""
        return not self.error and all(one.is_met for one in self.figures)

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        figures = [asdict(one) | {"met": one.is_met} for one in self.figures]
        return {"row": self.name, "seconds": self.seconds, "others_cores": self.others, "error": self.error} | {
            "figures": figures
        }


def table(rows: Sequence[BenchmarkRow]) -> Iterator[str]:
    """Each figure beside its bar."""
    yield "| row | figure | measured | bar | | |"
    yield "| --- | --- | ---: | ---: | --- | --- |"
    for row in rows:
        for one in row.figures:
            bar = "" if one.bar is None else f"at {'most' if one.at_most else 'least'} {number(one.bar)}"
            met = "" if one.bar is None else ("met" if one.is_met else "**missed**")
            value = f"{number(one.value)} {one.unit}".strip()
            yield f"| {one.row} | {one.what} | {value} | {bar} | {met} | {one.detail} |"
        if row.error:
            yield f"| {row.name} | not measured | | | **missed** | {row.error} |"


def cpu_table(rows: Sequence[BenchmarkRow]) -> Iterator[str]:
    """Where the CPU time went, in milliseconds a request."""
    names = [name for name in _COLUMNS if any(name in one.cpu for row in rows for one in row.figures)]
    yield f"| row | CPU ms a request, for | mesh | {' | '.join(names)} | other work, cores |"
    yield f"| --- | --- | ---: |{' ---: |' * len(names)} ---: |"
    for row in rows:
        for one in row.figures:
            if one.cpu:
                shares = " | ".join(f"{one.cpu.get(name, 0):.2f}" for name in names)
                yield f"| {one.row} | {one.what} | {cpu.of_mesh(one.cpu):.2f} | {shares} | {row.others:.2f} |"


def number(value: float) -> str:
    """The value with three significant digits, and from 1,000 on as a whole number."""
    if value >= 1_000 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}" if value >= 0.1 else f"{value:.2g}"
