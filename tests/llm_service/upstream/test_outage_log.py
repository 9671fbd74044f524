import logging

import pytest

from llm_service.errors import LlmError, Reason
from llm_service.upstream.outage_log import GENERATION, LIST, OutageLog


class Clock:
    now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock, caplog: pytest.LogCaptureFixture) -> OutageLog:
    caplog.set_level(logging.WARNING)
    return OutageLog("models:8000", clock)


def outage(what: str = "answers 404: check ASKMESH_MODEL_URL") -> LlmError:
    return LlmError(Reason.MODEL_SERVER_UNAVAILABLE, f"the model server {what}")


def test_an_outage_is_a_line_when_it_begins_and_one_when_it_ends(
    log: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(100):
        clock.now += 1
        log.failed(GENERATION, outage())
        log.succeeded(LIST, clock.now)
    log.succeeded(GENERATION, clock.now + 1)
    assert caplog.messages == [
        "the model server at models:8000 cannot be used: it answers 404: check ASKMESH_MODEL_URL",
        "the model server at models:8000 answers again",
    ]


def test_an_answer_ends_what_the_list_of_models_began(
    log: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log.failed(LIST, outage())
    log.failed(GENERATION, outage())
    log.succeeded(LIST, clock.now + 1)
    assert len(caplog.messages) == 1, "no answer has come yet"
    log.failed(LIST, outage())
    log.succeeded(GENERATION, clock.now + 1)
    assert caplog.messages[1:] == ["the model server at models:8000 answers again"]


def test_each_reason_is_said_once(log: OutageLog, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(3):
        for what in ("cannot be reached (ConnectionRefusedError)", "answers 503"):
            log.failed(GENERATION, outage(what))
            log.failed(LIST, outage(what))
    assert [message.rpartition(": ")[2] for message in caplog.messages] == [
        "it cannot be reached (ConnectionRefusedError)",
        "it answers 503",
    ]


def test_an_answer_that_began_before_says_nothing(
    log: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    log.failed(GENERATION, outage())
    log.succeeded(GENERATION, clock.now - 1)
    log.failed(GENERATION, outage())
    assert len(caplog.messages) == 1


@pytest.mark.parametrize("reason", list(Reason))
def test_only_what_the_server_does_is_its_outage(
    log: OutageLog, caplog: pytest.LogCaptureFixture, reason: Reason
) -> None:
    for _ in range(3):
        log.failed(GENERATION, LlmError(reason, "the model server said: SECRET", why="the model server refuses it"))
    refusals = {Reason.REQUEST_REFUSED, Reason.CONTEXT_TOO_LONG}
    outages = {
        Reason.MODEL_SERVER_UNAVAILABLE,
        Reason.MODEL_SERVER_DENIED,
        Reason.MODEL_SERVER_INVALID,
        Reason.GENERATION_INTERRUPTED,
    }
    word = "refuses a request" if reason in refusals else "cannot be used"
    assert caplog.messages == (
        [f"the model server at models:8000 {word}: it refuses it"] if reason in refusals | outages else []
    )


def test_a_server_that_comes_and_goes_does_not_fill_the_log(
    log: OutageLog, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3_000):
        clock.now += 0.1
        log.failed(GENERATION, outage(f"says {number}"))
        log.succeeded(GENERATION, clock.now)
    assert 10 <= len(caplog.messages) <= 60
