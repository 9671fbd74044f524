"""How many slots an owner may have while others may ask."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from owners.api_keys import create
from owners.roles import Role
from owners.tenancy import has_several_owners
from questions.claims import MOST_PASSED_OVER, claim
from questions.worker_leases import register_worker
from tests.questions.actors import rows
from tests.worker_service.asking import ask, states
from tests.worker_service.conftest import StartWorker
from tests.worker_service.fake_llm_service import FakeLlmService
from tests.worker_service.waiting import eventually
from worker_service.claiming.fair_share import FairShare


class Slots:
    """The slots of a worker over a queue without end, of which each owner's share is what FairShare lets it have."""

    def __init__(self, capacity: int, reserve: int | None = None) -> None:
        self.capacity = capacity
        self.fair_share = FairShare(capacity, reserve)
        self.held: Counter[str] = Counter()
        self.turns: Counter[str] = Counter()

    def fill(self, *owners: str) -> None:
        """Claim for all free slots, in turns of owners that never have enough."""
        to_all = False
        while free := self.capacity - self.held.total():
            limits = self.fair_share.limits(free, to_all=to_all)
            wanting = [owner for owner in owners if owner not in limits.excluded_owners]
            assert 0 < limits.count <= free
            if not wanting:
                if limits.is_last:
                    return
                to_all = True
                continue
            for _ in range(limits.count):
                owner = min(wanting, key=lambda owner: self.turns[owner])
                self.turns[owner] = max(self.turns[owner], min(self.turns.values(), default=0)) + 1
                self.take(owner)

    def take(self, owner: str) -> None:
        self.fair_share.acquired(owner)
        self.held[owner] += 1

    def end(self, owner: str, count: int = 1) -> None:
        for _ in range(count):
            self.fair_share.released(owner)
            self.held[owner] -= 1


@pytest.mark.parametrize(
    ("capacity", "reserve", "most"),
    [
        *[(1, None, 1), (2, None, 1), (3, None, 2), (4, None, 3), (8, None, 7), (9, None, 7), (16, None, 14)],
        *[(256, None, 224), (512, None, 448), (4, 0, 4), (4, 2, 2), (4, 3, 1), (1, 0, 1), (10_000, None, 8_750)],
    ],
)
def test_one_owner_has_all_but_the_reserve_and_another_begins_at_once(
    capacity: int, reserve: int | None, most: int
) -> None:
    slots = Slots(capacity, reserve)
    slots.fill("a")
    assert slots.held["a"] == most
    if most < capacity:
        slots.fill("a", "b")
        assert slots.held["b"] >= 1
        assert slots.held["a"] == most


def test_alone_an_owner_has_all() -> None:
    slots = Slots(512)
    slots.fair_share.several_owners = False
    slots.fill("a")
    assert slots.held["a"] == 512
    assert not slots.fair_share.somebody_is_passed_over


def test_no_slot_waits_for_an_owner_that_has_nothing_due() -> None:
    slots = Slots(8)
    slots.fill("a", "b")
    slots.end("b", slots.held["b"] - 1)
    slots.fill("a")
    assert slots.held["a"] == 7 - slots.held["b"] + 1 or slots.held.total() == 8


@pytest.mark.parametrize("capacity", [8, 64, 512])
@pytest.mark.parametrize("others", [1, 2, 5])
def test_owners_that_want_more_come_to_have_equally_many_however_long_answers_are(capacity: int, others: int) -> None:
    slots = Slots(capacity)
    slots.fill("long")
    rest = [f"short {number}" for number in range(others)]
    for number in range(50 * capacity):
        # Short answers end 25 times as often as long ones.
        for owner in rest:
            if slots.held[owner]:
                slots.end(owner)
        slots.fill("long", *rest)
        if number % 25 == 0:
            slots.end("long")
            slots.fill("long", *rest)
    fair = capacity / (others + 1)
    assert slots.held["long"] <= fair + max(capacity / 16, 2)
    assert all(slots.held[owner] >= fair * 7 / 8 - max(capacity / 16, 2) for owner in rest)


@given(
    st.integers(1, 40),
    st.lists(st.integers(0, 40), max_size=4),
    st.integers(1, 40),
    st.integers(0, 39),
    st.booleans(),
)
def test_what_is_offered_may_all_be_one_owners(
    capacity: int, held: list[int], wanted: int, reserve: int, to_all: bool
) -> None:
    slots = Slots(capacity, reserve)
    for number, count in enumerate(held):
        for _ in range(min(count, capacity - slots.held.total())):
            slots.take(str(number))
    free = capacity - slots.held.total()
    if not free:
        return
    limits = slots.fair_share.limits(min(wanted, free), to_all=to_all)
    reserve = min(reserve, capacity - 1)
    for owner in [*slots.held, "new"]:
        left, has = free, slots.held[owner]
        for _ in range(limits.count if owner not in limits.excluded_owners else 0):
            assert not reserve or has * reserve < (capacity - reserve) * left
            left, has = left - 1, has + 1
    assert 1 <= limits.count <= min(wanted, free)
    assert all(slots.held[owner] for owner in limits.excluded_owners), "who has nothing may begin"


@pytest.mark.parametrize("workers", [1, 2])
async def test_who_has_nothing_begins_while_anothers_long_answers_fill_the_mesh(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker, workers: int
) -> None:
    for tenant in ("a", "b"):
        await create(engine, tenant, Role.USER)
    llm.flowing.clear()  # no answer ends
    for number in range(5 * workers):
        await ask(engine, f"long {number}", owner="a")
    for _ in range(workers):
        start_worker(ASKMESH_WORKER_SLOTS="4", ASKMESH_LEASE_SECONDS="15")
    await eventually(lambda: llm.running == 3 * workers, "one owner has what it may")
    for number in range(workers):
        await ask(engine, f"first {number}", owner="b" if number == 0 else "c")
    await eventually(lambda: llm.running == 4 * workers, "the others have begun")
    begun = await rows(engine, "SELECT owner, count(*) FROM answers WHERE state = 'in_progress' GROUP BY owner")
    assert dict(map(tuple, begun)) == {"a": 3 * workers, "b": 1} | ({"c": 1} if workers == 2 else {})
    llm.flowing.set()

    async def done() -> bool:
        return (await states(engine)) == {"completed": 6 * workers}

    await eventually(done, "all are answered", seconds=60)


async def test_who_is_alone_fills_all_slots_as_soon_as_answers_end(
    engine: AsyncEngine, llm: FakeLlmService, start_worker: StartWorker
) -> None:
    llm.flowing.clear()
    for number in range(5):
        await ask(engine, f"alone {number}", owner="a")
    await rows(engine, "DELETE FROM api_keys RETURNING id")
    start_worker(ASKMESH_WORKER_SLOTS="4", ASKMESH_LEASE_SECONDS="15")
    await eventually(lambda: llm.running == 4, "all slots are its own")


async def test_what_is_passed_over_is_passed_over_in_turn_and_no_further_than_a_bound(engine: AsyncEngine) -> None:
    await rows(
        engine,
        """
        WITH answer AS (
            INSERT INTO answers (answer_key, reusable, model, owner, turn, next_deadline)
            SELECT sha256(n::text::bytea), true, '',
                CASE WHEN n = :most + 50 THEN 'too far' WHEN n = :most THEN 'last' WHEN n = 7 THEN NULL
                    WHEN n % 1000 = 0 THEN 'b' ELSE 'a' END, n, clock_timestamp() + interval '1 hour'
            FROM generate_series(1, :most + 50) AS n RETURNING id, coalesce(owner, 'nobody') AS owner, next_deadline
        )
        INSERT INTO questions (owner, text, language, answer_id, deadline)
        SELECT owner, owner, 'en', id, next_deadline FROM answer RETURNING id
        """,
        most=MOST_PASSED_OVER,
    )
    worker_id = await register_worker(engine, "tests", 60)
    assert [c.owner for c in await claim(engine, worker_id, 9, but_for=["a"])] == [None, "b", "last"]
    assert await claim(engine, worker_id, 9, but_for=["a", ""]) == []
    await rows(engine, "UPDATE answers SET losses = 3 WHERE turn < 10 AND state = 'queued' RETURNING id")
    claimed = await claim(engine, worker_id, 2, but_for=["b"])
    assert [c.owner for c in claimed] == ["a", "a"], "but none that may be what kills workers"
    least = await rows(engine, "SELECT min(turn) FROM answers WHERE holder IS NOT NULL AND owner = 'a'")
    assert least[0].min == 10
    (turn,) = await rows(engine, "SELECT last_value FROM claimed_turns")
    assert turn.last_value == 0, "time stands still while somebody is passed over"


@pytest.mark.parametrize(
    ("known", "several"),
    [
        ([], False),
        (["key a"], False),
        (["key a", "key a"], False),
        (["key a", "revoked b"], False),
        (["key a", "key b"], True),
        (["queued a"], False),
        (["queued a", "queued b"], True),
        (["booked a"], False),
        (["booked a", "booked a"], False),
        (["booked a", "booked b"], True),
    ],
)
async def test_several_owners_are_known_by_keys_by_what_is_live_and_by_what_was_booked(
    engine: AsyncEngine, known: list[str], several: bool
) -> None:
    await rows(engine, "DELETE FROM api_keys RETURNING id")
    for number, (what, owner) in enumerate(entry.split() for entry in known):
        if what in ("key", "revoked"):
            _, made = await create(engine, owner, Role.USER)
            if what == "revoked":
                await rows(engine, "UPDATE api_keys SET revoked_at = now() WHERE id = :id RETURNING id", id=made.id)
        elif what == "queued":
            await ask(engine, f"question {number}", owner=owner)
        else:
            await rows(
                engine,
                """INSERT INTO ledger_days VALUES (:owner, current_date - CAST(:number AS integer), 1, 1, 1, 1, 1)
                RETURNING owner""",
                owner=owner,
                number=number,
            )
    assert await has_several_owners(engine) is several
