from itertools import pairwise

import pytest

from worker_service.engine_gate import CLOSES_AFTER, FIRST_PROBE_SECONDS, LONGEST_PROBE_SECONDS, EngineGate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def gate(clock: Clock) -> EngineGate:
    return EngineGate(clock)


def refuse_until_closed(gate: EngineGate) -> None:
    for _ in range(CLOSES_AFTER):
        assert not gate.is_closed
        gate.refused("UNAVAILABLE")
    assert gate.is_closed


def test_permits_everything_while_the_engine_answers(gate: EngineGate) -> None:
    for _ in range(20):
        gate.refused("RESOURCE_EXHAUSTED")
        gate.accepted()

    assert gate.permits(512) == 512


def test_closes_after_several_refusals_in_a_row_and_then_lets_one_through_per_pause(
    gate: EngineGate, clock: Clock
) -> None:
    refuse_until_closed(gate)

    assert gate.permits(512) == 0
    clock.now += FIRST_PROBE_SECONDS
    assert gate.permits(512) == 1
    gate.claimed()
    assert gate.permits(512) == 0


def test_a_permit_without_a_claim_begins_no_pause(gate: EngineGate, clock: Clock) -> None:
    refuse_until_closed(gate)
    clock.now += FIRST_PROBE_SECONDS

    assert gate.permits(0) == 0
    assert gate.permits(1) == 1
    assert gate.permits(1) == 1


def test_pauses_grow_to_a_limit_however_many_calls_fail(gate: EngineGate, clock: Clock) -> None:
    refuse_until_closed(gate)
    probes = []
    began = clock.now
    while clock.now < began + 3_600:
        if gate.permits(512):
            probes.append(clock.now)
            gate.claimed()
            gate.refused("UNAVAILABLE")
        clock.now += 0.1

    pauses = [later - earlier for earlier, later in pairwise(probes)]
    assert pauses[0] < 3
    assert max(pauses) <= LONGEST_PROBE_SECONDS + 0.2
    assert len(probes) < 3_600 / (LONGEST_PROBE_SECONDS / 2) + 10


def test_an_accepted_probe_opens_it_again(gate: EngineGate) -> None:
    refuse_until_closed(gate)

    gate.accepted()

    assert gate.permits(512) == 512


def test_an_engine_that_accepts_and_breaks_is_tried_one_at_a_time_until_it_has_answered(gate: EngineGate) -> None:
    for _ in range(CLOSES_AFTER):
        gate.accepted()
        gate.broke("UNAVAILABLE GENERATION_INTERRUPTED")
    assert gate.is_closed

    gate.accepted()
    assert gate.is_closed
    gate.answered()

    assert gate.permits(512) == 512


def test_the_first_pause_is_short_again_after_it_was_open(gate: EngineGate, clock: Clock) -> None:
    refuse_until_closed(gate)
    for _ in range(10):
        clock.now += LONGEST_PROBE_SECONDS
        gate.claimed()
    gate.accepted()

    refuse_until_closed(gate)
    clock.now += FIRST_PROBE_SECONDS

    assert gate.permits(1) == 1
