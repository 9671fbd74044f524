"""Whose question is next: the turn that an answer is given when it is asked for, by which workers claim.

An owner's questions of one priority are a flow. The next of a flow has its turn ``STEPS[priority]`` after the later of
two: the turn of the last claim, and the highest turn that the flow has among what is not final. So flows that wait
advance side by side, however long each is, and one that begins to ask begins where the others are now.

The latest turn that was claimed is the value of a sequence, which claims put forward: it outlives every process and
every pause. Each process that asks keeps the turns in memory, takes no lock and updates no row; once a second it learns
from PostgreSQL where the claims are and what its flows still have. docs/limits.md says what that bounds.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine


class Priority(StrEnum):
    """How soon a question is answered, against others of its owner and of other owners that wait."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


STEPS: Final = {Priority.HIGH: 1, Priority.NORMAL: 4, Priority.LOW: 16}
"""Turns from one question of a flow to the next: of three flows that wait, high gets 16 claims where low gets 1."""


class Flow(NamedTuple):
    """An owner's questions of one priority."""

    owner: str
    priority: Priority


@dataclass(frozen=True, slots=True)
class Sample:
    """What PostgreSQL says. ``last_claim``: the latest turn; ``claims``: how many ever; ``highest``: by flow."""

    last_claim: int
    claims: int
    highest: dict[Flow, int]


class _Highest:
    """The highest turn of a flow: as sampled, as given since that sample began, and since the one before it began.

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
        self._flows: dict[Flow, _Highest] = {}

    def next(self, flow: Flow) -> int:
        """The turn for a new answer of this flow."""
        highest = self._flows.get(flow)
        if highest is None:
            highest = self._flows[flow] = _Highest()
        turn = highest.since = max(self._last_claim, highest.turn) + STEPS[flow.priority]
        return turn

    def give_back(self, flow: Flow) -> None:
        """The turn given last was not used: the question shares an answer that was there."""
        if (highest := self._flows.get(flow)) is not None:
            highest.since = max(highest.since - STEPS[flow.priority], 0)

    def begin_sample(self) -> list[Flow]:
        """The flows to sample now; ``take`` ends the sample."""
        for highest in self._flows.values():
            highest.before, highest.since = highest.since, 0
        return list(self._flows)

    def take(self, sample: Sample) -> None:
        """Learn what PostgreSQL says, and forget the flows of which it has nothing."""
        # A row that was handed back has an earlier turn: the last claim is the latest that was ever seen.
        self._last_claim = max(self._last_claim, sample.last_claim)
        for flow, highest in list(self._flows.items()):
            highest.sampled = sample.highest.get(flow, 0)
            if not highest.turn:
                del self._flows[flow]


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
    SELECT flow.owner, flow.priority, latest.turn
    FROM unnest(CAST(:owners AS text[]), CAST(:priorities AS text[])) AS flow(owner, priority)
    CROSS JOIN LATERAL (
        SELECT turn FROM answers
        WHERE answers.owner = flow.owner AND answers.priority = flow.priority AND state IN ('queued', 'in_progress')
        ORDER BY turn DESC LIMIT 1
    ) AS latest
""")


async def sample(engine: AsyncEngine, flows: Iterable[Flow]) -> Sample:
    """Where the claims are, and the highest turns of these flows."""
    flows = list(flows)
    async with engine.connect() as connection:
        claims = (await connection.execute(_CLAIMS)).one()
        highest = {}
        if flows:
            parameters = {"owners": [flow.owner for flow in flows], "priorities": [flow.priority for flow in flows]}
            rows = await connection.execute(_HIGHEST, parameters)
            highest = {Flow(row.owner, Priority(row.priority)): row.turn for row in rows}
    return Sample(claims.last_claim, claims.claims, highest)


async def next_turn(engine: AsyncEngine, flow: Flow) -> int:
    """The turn for one question of this flow, for a process that asks too seldom to keep turns."""
    found = await sample(engine, [flow])
    return max(found.last_claim, found.highest.get(flow, 0)) + STEPS[flow.priority]
