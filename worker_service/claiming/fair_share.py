"""How many of a process's slots an owner may have, so that others need not wait until its answers have ended."""

import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_RESERVED_OF: Final = 8
_SLACK_OF: Final = 16
# Short answers end many at a time. Whoever has none for a moment has a share all the same.
_REMEMBERED_SECONDS: Final = 10.0


@dataclass(frozen=True, slots=True)
class ClaimLimits:
    """What may be claimed in one statement.

    ``excluded_owners``: they may have no more now. ``is_last``: who finds fewer than ``count`` need not ask for others.
    """

    count: int
    excluded_owners: tuple[str, ...] = ()
    is_last: bool = True


class FairShare:
    """Two rules, of which the first says what an owner may have, and the second who comes first.

    A dynamic threshold, as switches share a buffer by: an owner is given a slot only while it has fewer than
    ``(capacity - reserve) / reserve`` times as many as are free. So alone it has at most all but the reserve, and the
    more owners there are, the less stays free. That is what an owner which has nothing can begin with at once.

    Of those who may, owners that have less than their share come first: the slots, divided by the owners that had any
    in the last 10 s. So they come to have equally many, however long the answers of each are, and no slot waits for
    owners that have nothing due.

    All workers claim from one queue, so that what holds for the slots of each holds for those of the mesh.
    """

    def __init__(self, capacity: int, reserve: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """``reserve`` None: an eighth of the slots, rounded up. 0, as of a single slot: whoever asks may have all."""
        self._capacity = capacity
        wanted = -(-capacity // _RESERVED_OF) if reserve is None else reserve
        self._reserve = max(min(wanted, capacity - 1), 0)
        self._held: Counter[str] = Counter()
        self._clock = clock
        # When owners that have nothing had something last, in the order of that.
        self._left: dict[str, float] = {}
        self.several_owners = True
        """Whether there is anybody to share with. Until that is known, there may be."""

    def acquired(self, owner: str | None) -> None:
        """A slot has an answer of this owner; None: nobody knows whose."""
        self._held[owner or ""] += 1
        self._left.pop(owner or "", None)

    def released(self, owner: str | None) -> None:
        """The slot is free again."""
        self._held[owner or ""] -= 1
        if self._held[owner or ""] <= 0:
            del self._held[owner or ""]
            self._left[owner or ""] = self._clock()

    @property
    def somebody_is_passed_over(self) -> bool:
        """Whether an owner may have no more now, although slots may be free."""
        return self.several_owners and any(held >= self._threshold(1) for held in self._held.values())

    def limits(self, wanted: int, *, to_all: bool = False) -> ClaimLimits:
        """What may be claimed for so many slots that are free; ask again once it has been.

        ``to_all``: those that have less than their share have nothing due.
        """
        if not self.several_owners or not self._reserve:
            return ClaimLimits(wanted)
        most = self._threshold(wanted)
        over = tuple(owner for owner, held in self._held.items() if held >= most)
        share = math.ceil(self._capacity / max(self._owners(), 1))
        behind = tuple(owner for owner, held in self._held.items() if held >= min(share, most))
        if to_all or behind == over:
            return ClaimLimits(min(wanted, self._claimable(wanted, over)), over)
        # As many in a statement as bring nobody far beyond its share, and not one by one where all are close to it.
        limit = max(share - self._most(behind), self._capacity // _SLACK_OF, 1)
        return ClaimLimits(min(wanted, limit, self._claimable(wanted, behind)), behind, is_last=False)

    def _owners(self) -> int:
        long_ago = self._clock() - _REMEMBERED_SECONDS
        while self._left and self._left[first := next(iter(self._left))] < long_ago:
            del self._left[first]
        return len(self._held) + len(self._left)

    def _threshold(self, wanted: int) -> float:
        """Who has so many may have no more."""
        if not self._reserve:
            return math.inf
        return (self._capacity - self._reserve) * self._free(wanted) / self._reserve

    def _free(self, wanted: int) -> int:
        # Suspects have slots of their own, and count here all the same.
        return max(self._capacity - self._held.total(), wanted)

    def _most(self, passed_over: tuple[str, ...]) -> int:
        return max((held for owner, held in self._held.items() if owner not in passed_over), default=0)

    def _claimable(self, wanted: int, passed_over: tuple[str, ...]) -> int:
        """How many may be claimed at once, which may all be of the owner that has most and may have more.

        The largest number for which held + number - 1 is below the threshold when number - 1 fewer are free.
        """
        rest = self._capacity - self._reserve
        below = rest * (self._free(wanted) + 1) - self._reserve * (self._most(passed_over) - 1)
        return math.ceil(below / self._capacity) - 1
