from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker_service.claiming.engine_gate import (
    CLOSES_AFTER,
    FIRST_PROBE_SECONDS,
    LONGEST_PROBE_SECONDS,
    LONGEST_RETRY_AFTER_SECONDS,
    EngineGate,
)


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


def break_off(gate: EngineGate, times: int = CLOSES_AFTER) -> None:
    for _ in range(times):
        gate.accepted()
        gate.broke("UNAVAILABLE GENERATION_INTERRUPTED")


def probe(gate: EngineGate, clock: Clock, *, succeeds: bool) -> None:
    clock.now += gate.seconds_to_probe
    gate.probed()
    if succeeds:
        gate.probe_succeeded()


def test_permits_everything_while_the_engine_answers(gate: EngineGate) -> None:
    for _ in range(20):
        gate.refused("RESOURCE_EXHAUSTED")
        gate.accepted()

    assert gate.permits(512) == 512


@pytest.mark.parametrize("fail", [refuse_until_closed, break_off])
def test_closes_after_several_failures_in_a_row_and_then_asks_control_questions(
    gate: EngineGate, clock: Clock, fail: Callable[[EngineGate], None]
) -> None:
    fail(gate)

    assert gate.permits(512) == 0
    assert 0 < gate.seconds_to_probe <= FIRST_PROBE_SECONDS
    probe(gate, clock, succeeds=False)
    assert gate.permits(512) == 0
    assert gate.seconds_to_probe > 0
    probe(gate, clock, succeeds=True)
    assert gate.permits(512) == 512


def test_pauses_grow_to_a_few_seconds_however_long_the_outage_lasts(gate: EngineGate, clock: Clock) -> None:
    refuse_until_closed(gate)
    probes = [clock.now]
    while clock.now < 3_700:
        probe(gate, clock, succeeds=False)
        probes.append(clock.now)

    pauses = [later - earlier for earlier, later in pairwise(probes)]
    assert pauses[0] <= FIRST_PROBE_SECONDS
    assert max(pauses) <= LONGEST_PROBE_SECONDS
    assert sum(pauses[5:]) / len(pauses[5:]) > LONGEST_PROBE_SECONDS / 2


@pytest.mark.parametrize(("asked_for", "given"), [(0.1, 0.1), (20.0, 20.0), (1e9, LONGEST_RETRY_AFTER_SECONDS)])
def test_an_overloaded_server_gets_the_time_that_it_asks_for(gate: EngineGate, asked_for: float, given: float) -> None:
    for _ in range(CLOSES_AFTER):
        gate.refused("RESOURCE_EXHAUSTED", asked_for)

    assert max(given, FIRST_PROBE_SECONDS / 2) <= gate.seconds_to_probe + 1e-6
    assert gate.seconds_to_probe <= max(given, FIRST_PROBE_SECONDS)


@pytest.mark.parametrize("open_it", [EngineGate.answered, EngineGate.probe_succeeded])
def test_the_first_pause_is_short_again_after_it_was_open(
    gate: EngineGate, clock: Clock, open_it: Callable[[EngineGate], None]
) -> None:
    refuse_until_closed(gate)
    for _ in range(10):
        probe(gate, clock, succeeds=False)
    open_it(gate)
    refuse_until_closed(gate)

    assert gate.seconds_to_probe <= FIRST_PROBE_SECONDS


def test_an_engine_that_answers_control_questions_only_gets_a_few_others_at_a_time(
    gate: EngineGate, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    break_off(gate)
    probe(gate, clock, succeeds=True)
    gate.claimed(gate.permits(512))
    began, tried = clock.now, 0
    while clock.now < began + 600:
        break_off(gate, 1)
        assert gate.is_closed
        probe(gate, clock, succeeds=True)
        permitted = gate.permits(512)
        assert permitted <= CLOSES_AFTER
        gate.claimed(permitted)
        assert gate.permits(512) == 0
        tried += permitted

    assert tried <= 600 / (LONGEST_PROBE_SECONDS / 2) * CLOSES_AFTER * 1.1
    assert len(caplog.records) == 3, "it began, it seemed to be over, it was not"
    gate.answered()
    assert gate.permits(512) == 512
    assert len(caplog.records) == 4


def test_after_a_relapse_it_is_never_stuck_with_those_it_let_through(gate: EngineGate, clock: Clock) -> None:
    break_off(gate)
    probe(gate, clock, succeeds=True)
    break_off(gate, 1)
    probe(gate, clock, succeeds=True)
    gate.claimed(gate.permits(512))
    clock.now += LONGEST_PROBE_SECONDS

    assert gate.permits(512) == CLOSES_AFTER


EVENTS: dict[str, Callable[[EngineGate, Clock], None]] = {
    "refused": lambda gate, _: gate.refused("UNAVAILABLE"),
    "overloaded": lambda gate, _: gate.refused("RESOURCE_EXHAUSTED", 7.0),
    "accepted": lambda gate, _: gate.accepted(),
    "broke": lambda gate, _: gate.broke("UNAVAILABLE"),
    "answered": lambda gate, _: gate.answered(),
    "probe fails": lambda gate, clock: probe(gate, clock, succeeds=False),
    "probe succeeds": lambda gate, clock: probe(gate, clock, succeeds=True),
    "claims": lambda gate, _: gate.claimed(gate.permits(8)),
    "time passes": lambda _, clock: setattr(clock, "now", clock.now + 3),
}


@given(st.lists(st.sampled_from(sorted(EVENTS))))
def test_whatever_happened_it_opens_with_an_answer_and_soon_after_the_engine_is_back(names: Iterable[str]) -> None:
    clock = Clock()
    gate = EngineGate(clock)
    for name in names:
        EVENTS[name](gate, clock)
        assert gate.permits(0) == 0
        assert (gate.permits(512) == 0) or not gate.is_closed
        assert gate.seconds_to_probe <= 7.0 + 1e-9  # the clock is a float
    overloaded_until = clock.now + 7.0
    if gate.is_closed:
        probe(gate, clock, succeeds=True)
        assert clock.now <= overloaded_until
    clock.now += LONGEST_PROBE_SECONDS
    assert gate.permits(512) >= CLOSES_AFTER
    gate.answered()
    assert gate.permits(512) == 512
