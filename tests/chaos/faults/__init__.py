"""What can break. A fault is named as in the report by its scenario; an instance serves one scenario."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

from tests.chaos.stage import Stage


class Fault(ABC):
    """One kind of fault."""

    async def prepare(self, stage: Stage) -> None:  # noqa: B027 - most have nothing to prepare
        """Called before questions are asked."""

    @abstractmethod
    async def inject(self, stage: Stage, rng: random.Random) -> None:
        """Break something; return when the fault is over, and all that is left mends by itself."""

    @property
    def deaths(self) -> Sequence[tuple[float, float]]:
        """When questions broke something by themselves: from and to, in seconds since 1970."""
        return ()

    async def release(self) -> None:  # noqa: B027 - nor to release
        """Called after all questions are answered, or could not be."""


class Nothing(Fault):
    """Where the questions themselves are what breaks things."""

    async def inject(self, stage: Stage, rng: random.Random) -> None:
        """Nothing."""
