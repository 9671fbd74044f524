"""Whose question is next: the turn that an answer is given when it is asked for, by which workers claim.

An owner's questions of one priority are a queue. The next of a queue has its turn ``STEPS[priority]`` after the later
of two: the turn of the last claim, and the highest turn that the queue has among what is not final. So queues that wait
advance side by side, however long each is, and one that begins to ask begins where the others are now.

The latest turn that was claimed is the value of a sequence, which claims put forward: it outlives every process and
every pause. Each process that asks keeps the turns in memory, takes no lock and updates no row; once a second it learns
from PostgreSQL where the claims are and what its queues still have. docs/limits.md says what that bounds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from owners.priority import Priority

STEPS: Final = {Priority.HIGH: 1, Priority.NORMAL: 4, Priority.LOW: 16}
"""Turns from one question of a queue to the next: of three queues that wait, high gets 16 claims where low gets 1."""


class OwnerQueue(NamedTuple):
    """An owner's questions of one priority."""

    owner: str
    priority: Priority


@dataclass(frozen=True, slots=True)
class TurnSample:
    """What PostgreSQL says. ``last_claim``: the latest turn; ``claims``: how many ever; ``highest``: by queue."""

    last_claim: int
    claims: int
    highest: dict[OwnerQueue, int]


class _HighestTurn:
    """The highest turn of a queue: as sampled, as given since that sample began, and since the one before it began.

    What is given while a sample is taken may or may not be in it, so it counts once more in the next.
    """

    __slots__ = ("before", "sampled", "since")

    def __init__(self) -> None:
        self.sampled = self.before = self.since = 0

    @property
    def turn(self) -> int:
        return max(self.sampled, self.before, self.since)


class Turns:
    """The turns that this process gives."""

    def __init__(self) -> None:
        self._last_claim = 0
        self._queues: dict[OwnerQueue, _HighestTurn] = {}

    def next(self, queue: OwnerQueue) -> int:
        """The turn for a new answer of this queue."""
        highest = self._queues.get(queue)
        if highest is None:
            highest = self._queues[queue] = _HighestTurn()
        turn = highest.since = max(self._last_claim, highest.turn) + STEPS[queue.priority]
        return turn

    def give_back(self, queue: OwnerQueue) -> None:
        """The turn given last was not used: the question shares an answer that was there."""
        if (highest := self._queues.get(queue)) is not None:
            highest.since = max(highest.since - STEPS[queue.priority], 0)

    def begin_sample(self) -> list[OwnerQueue]:
        """The queues to sample now; ``take`` ends the sample."""
        for highest in self._queues.values():
            highest.before, highest.since = highest.since, 0
        return list(self._queues)

    def take(self, sample: TurnSample) -> None:
        """Learn what PostgreSQL says, and forget the queues of which it has nothing."""
        # A row that was handed back has an earlier turn: the last claim is the latest that was ever seen.
        self._last_claim = max(self._last_claim, sample.last_claim)
        for queue, highest in list(self._queues.items()):
            highest.sampled = sample.highest.get(queue, 0)
            if not highest.turn:
                del self._queues[queue]


# All before the head of the queue was claimed, or is no more: after 5,000 cancels, say. A sequence has no transactions:
# whoever looks next, in whatever process, sees no less than was seen here.
_CLAIMS = text("""
    SELECT CASE WHEN turn > last_value + 1 THEN setval('claimed_turns', turn - 1) ELSE last_value END AS last_claim,
        (SELECT last_value FROM claim_tokens) AS claims
    FROM claimed_turns LEFT JOIN (
        SELECT turn FROM answers WHERE state = 'queued' AND due_at IS NULL ORDER BY turn, id LIMIT 1
    ) AS head ON true
""")
# What is in progress may count too: its turn is not above that of the last claim.
_HIGHEST = text("""
    SELECT queue.owner, queue.priority, latest.turn
    FROM unnest(CAST(:owners AS text[]), CAST(:priorities AS text[])) AS queue(owner, priority)
    CROSS JOIN LATERAL (
        SELECT turn FROM answers
        WHERE answers.owner = queue.owner AND answers.priority = queue.priority AND state IN ('queued', 'in_progress')
        ORDER BY turn DESC LIMIT 1
    ) AS latest
""")


async def sample(engine: AsyncEngine, queues: Iterable[OwnerQueue]) -> TurnSample:
    """Where the claims are, and the highest turns of these queues."""
    queues = list(queues)
    async with engine.connect() as connection:
        claims = (await connection.execute(_CLAIMS)).one()
        highest = {}
        if queues:
            parameters = {
                "owners": [queue.owner for queue in queues],
                "priorities": [queue.priority for queue in queues],
            }
            rows = await connection.execute(_HIGHEST, parameters)
            highest = {OwnerQueue(row.owner, Priority(row.priority)): row.turn for row in rows}
    return TurnSample(claims.last_claim, claims.claims, highest)


async def next_turn(engine: AsyncEngine, queue: OwnerQueue) -> int:
    """The turn for one question of this queue, for a process that asks too seldom to keep turns."""
    found = await sample(engine, [queue])
    return max(found.last_claim, found.highest.get(queue, 0)) + STEPS[queue.priority]
