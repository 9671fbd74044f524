"""What a load saw and what it cost, and the arithmetic on it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks import cpu


@dataclass(frozen=True)
class Measured:
    """One load. Times in seconds; ``cpu`` by process name, the load generator's and the model server's included."""

    count: int
    seconds: float
    latencies: Sequence[float]
    first_tokens: Sequence[float]
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.count / self.seconds

    @property
    def cpu_each(self) -> dict[str, float]:
        """CPU milliseconds a request, by process."""
        return {name: used / self.count * 1e3 for name, used in self.cpu.items() if name != "benchmark"}

    @property
    def mesh_cpu_each(self) -> float:
        """CPU milliseconds a request of all services and stores."""
        return cpu.of_mesh(self.cpu_each)

    def percentile(self, which: float) -> float:
        """The latency that so many per cent did not exceed."""
        return percentile(self.latencies, which)


def percentile(values: Sequence[float], which: float) -> float:
    """The smallest value that so many per cent of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(math.ceil(len(ranked) * which / 100), 1) - 1]


def middle(loads: Sequence[Measured]) -> Measured:
    """All of the loads as one: the median rate, every latency, and the mean of what they cost."""
    return Measured(
        count=loads[0].count,
        seconds=median(one.seconds for one in loads),
        latencies=[each for one in loads for each in one.latencies],
        first_tokens=[each for one in loads for each in one.first_tokens],
        cpu=cpu.average([one.cpu for one in loads]),
    )


def added(mesh: Sequence[float], direct: Sequence[float]) -> float:
    """By how many milliseconds the median of the one is above that of the other."""
    return (median(mesh) - median(direct)) * 1e3
