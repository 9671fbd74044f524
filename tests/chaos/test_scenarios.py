"""The fault suite: whatever breaks while 300 users ask, each gets the one right answer.

``make test`` plays the scenarios without the mark ``chaos``; ``make chaos`` plays all.
"""

from collections.abc import Callable
from typing import Any

import pytest
from _pytest.mark import ParameterSet

from tests.chaos.faults import Fault, Nothing
from tests.chaos.faults.clock import JumpingClock
from tests.chaos.faults.memory import WatchMemory
from tests.chaos.faults.model import (
    ChangeManners,
    FailRequests,
    FreezeModelServer,
    KillInLongAnswers,
    KillModelServer,
    StartAgain,
)
from tests.chaos.faults.neighbour import SecondMesh
from tests.chaos.faults.network import CutCommits, CutOffWorker
from tests.chaos.faults.processes import (
    Freeze,
    KillAll,
    KillEverything,
    KillHolder,
    KillHolderOfPoison,
    KillOne,
    KillSweeper,
    RollingRestart,
)
from tests.chaos.faults.servers import (
    KILL,
    RESTART,
    CloseBrokerConnections,
    DemotePostgreSQL,
    DemoteValkey,
    EndPostgreSQL,
    ExhaustConnections,
    FlushValkey,
    KillValkey,
    PurgeQueue,
    RestartRabbitMQ,
    SendRubbish,
)
from tests.chaos.scenarios import Outcome, Scenario, play
from tests.chaos.stage import Setup, Stage

# Time decides in them: whose lease runs out, what comes first.
pytestmark = [pytest.mark.processes, pytest.mark.alone, pytest.mark.timeout(900)]

STANDARD = Setup("standard")
PROXIED = Setup("proxied", behind_proxy=True)
VALKEY = Setup("valkey", over_rabbitmq=False)
ONE_WORKER = Setup("one-worker", workers=1)
USUAL_LEASE = Setup("usual-lease", lease_seconds=15)

HARMLESS: dict[str, Any] = {"loses_generations": False}
# All ask at once, and look again every half minute or so.
# Three questions at each of which the engine dies, among others of 40 s.
KILLERS = ("tokens=40 delay=0.2 fault=exit at=2",) * 3
AMONG_LONG: dict[str, Any] = {"questions": 15, "at_once": 15, "answer": "tokens=80 delay=0.5", "seconds": 420}
BURST: dict[str, Any] = {"questions": 5_000, "at_once": 5_000, "pace": 30.0, "answer": "tokens=8", "seconds": 600}


def _scenario(setup: Setup, name: str, fault: Callable[[], Fault], *, quick: bool = False, **how: Any) -> ParameterSet:
    marks = () if quick else (pytest.mark.chaos,)
    return pytest.param(setup, Scenario(name, fault, **how), id=name.replace(" ", "-"), marks=marks)


# The supervisor waits longer each time that the same process has died within a minute. So scenarios that kill the same
# one are apart: an outage longer than the lease would make generations be repeated, which shows less.
SCENARIOS = [
    _scenario(STANDARD, "kill -9 of one worker", KillHolder, quick=True),
    _scenario(STANDARD, "kill -9 of all workers", lambda: KillAll("worker_service")),
    _scenario(STANDARD, "kill -9 of one llm_service", lambda: KillOne("llm_service")),
    _scenario(STANDARD, "kill -9 of one api_service", lambda: KillOne("api_service"), quick=True, **HARMLESS),
    _scenario(STANDARD, "PostgreSQL killed", lambda: EndPostgreSQL(KILL), quick=True),
    _scenario(STANDARD, "RabbitMQ restarted or killed", RestartRabbitMQ, **HARMLESS),
    _scenario(STANDARD, "RabbitMQ's queue purged", PurgeQueue, **HARMLESS),
    _scenario(STANDARD, "RabbitMQ's connections closed", CloseBrokerConnections, quick=True, **HARMLESS),
    _scenario(STANDARD, "Redis flushed", FlushValkey, **HARMLESS),
    _scenario(STANDARD, "Redis killed", KillValkey, quick=True, **HARMLESS),
    _scenario(STANDARD, "Redis demoted", DemoteValkey, **HARMLESS),
    _scenario(STANDARD, "Redis carries rubbish", SendRubbish, quick=True, **HARMLESS),
    _scenario(STANDARD, "Redis shared with another mesh", SecondMesh, times=1, **HARMLESS),
    _scenario(STANDARD, "PostgreSQL demoted", DemotePostgreSQL, times=1),
    _scenario(STANDARD, "model server killed", KillModelServer),
    _scenario(STANDARD, "model server hangs", FreezeModelServer),
    _scenario(STANDARD, "model server answers 500 or 429", lambda: FailRequests("500", "429", "503")),
    _scenario(STANDARD, "model server answers garbage", lambda: FailRequests("garbage-body", "not-http", "garbage")),
    _scenario(STANDARD, "model server cuts answers", lambda: FailRequests("cut", "end", "error"), quick=True),
    _scenario(STANDARD, "model server cuts answers for a minute", lambda: FailRequests("cut", seconds=90), times=1),
    _scenario(STANDARD, "model server changes its manners", ChangeManners, times=8, at_once=12),
    _scenario(STANDARD, "model server never ends", WatchMemory, times=0, endless=("tokens=400 fault=flood at=20",) * 3),
    _scenario(STANDARD, "killers among long answers", StartAgain, times=0, poison=KILLERS, **AMONG_LONG),
    _scenario(STANDARD, "poison", Nothing, times=0, poison=("fault=cut", "fault=error", "fault=end")),
    _scenario(STANDARD, "poison that kills workers", KillHolderOfPoison, times=1, poison=("tokens=400 delay=1",)),
    _scenario(STANDARD, "PostgreSQL restarted", lambda: EndPostgreSQL(RESTART)),
    _scenario(STANDARD, "SIGSTOP of a worker past its lease", Freeze),
    _scenario(STANDARD, "rolling restarts", RollingRestart, times=2, **HARMLESS),
    _scenario(STANDARD, "kill -9 of everything at once", KillEverything),
    _scenario(PROXIED, "kill -9 of the sweeping worker", KillSweeper),
    _scenario(PROXIED, "commits of unknown outcome", CutCommits),
    _scenario(PROXIED, "PostgreSQL's connections exhausted", ExhaustConnections),
    _scenario(PROXIED, "worker cut off past its lease", CutOffWorker),
    _scenario(VALKEY, "Redis as broker: flushed", FlushValkey, **HARMLESS),
    _scenario(VALKEY, "Redis as broker: killed", KillValkey, **HARMLESS),
    _scenario(VALKEY, "Redis as broker: kill -9 of one worker", KillHolder),
    _scenario(ONE_WORKER, "clock of one worker jumps", JumpingClock, **HARMLESS),
    _scenario(ONE_WORKER, "burst of 5,000 at one worker", KillHolder, **BURST),
]


@pytest.mark.parametrize(("stage", "scenario"), SCENARIOS, indirect=["stage"], scope="module")
async def test_every_question_gets_its_one_answer(
    stage: Stage, scenario: Scenario, seed: int, outcomes: list[Outcome]
) -> None:
    await _play(stage, scenario, seed, outcomes)


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [USUAL_LEASE], ids=lambda setup: setup.name, indirect=True)
async def test_a_dead_workers_questions_are_being_answered_again_within_20_s(
    stage: Stage, seed: int, outcomes: list[Outcome]
) -> None:
    scenario = Scenario("kill -9 of one worker, usual lease", KillHolder)
    outcome = await _play(stage, scenario, seed, outcomes)
    slowest = outcome.verdict.slowest_resumption
    assert slowest is not None, "no worker held a question when it was killed"
    assert slowest <= 20


@pytest.mark.chaos
@pytest.mark.parametrize("stage", [STANDARD], ids=lambda setup: setup.name, indirect=True)
async def test_answers_of_a_minute_are_being_written_again_10_s_after_the_model_server_is_back(
    stage: Stage, seed: int, outcomes: list[Outcome]
) -> None:
    long: dict[str, Any] = {"questions": 40, "at_once": 40, "answer": "tokens=120 delay=0.5"}
    scenario = Scenario("model server killed, answers of a minute", KillInLongAnswers, times=1, **long)
    outcome = await _play(stage, scenario, seed, outcomes)
    assert outcome.verdict.asked_again >= 30, "the fault missed most of them"
    assert outcome.verdict.slowest_return is not None
    assert outcome.verdict.slowest_return <= 10


async def _play(stage: Stage, scenario: Scenario, seed: int, outcomes: list[Outcome]) -> Outcome:
    outcome = await play(stage, scenario, seed)
    outcomes.append(outcome)
    context = f"--chaos-seed={seed}; requests sent again: {dict(outcome.retries)}"
    assert not outcome.verdict.problems, "\n".join([context, *outcome.verdict.problems])
    return outcome
