"""The scenarios: which fault, where, how often, and what the users ask meanwhile."""

import asyncio
import random
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.chaos import audit
from tests.chaos.crowd import Crowd
from tests.chaos.faults import Fault
from tests.chaos.stage import Stage
from tests.chaos.verdict import Verdict, Window, judge

# Where among all questions faults strike: not before some are in flight, and not when the last ones are.
_FIRST, _LAST = 0.15, 0.85
# Every eighth question is asked by two users at the same time.
_SHARED = 8


@dataclass(frozen=True)
class Scenario:
    """A fault that strikes ``times`` times while ``questions`` are asked, ``at_once`` of them at a time."""

    name: str
    fault: type[Fault] | Callable[[], Fault]
    times: int = 3
    questions: int = 300
    at_once: int = 64
    pace: float = 0.5
    """Seconds between two looks of a user."""
    loses_generations: bool = True
    """Whether what the model was writing may be lost; otherwise nothing may be sent to it again."""
    seconds: float = 240
    """Whoever has no answer by then has lost it."""
    answer: str = "tokens=8 delay=0.12"
    """Directives for the fake model server: about a second, as a short answer of a real model takes."""
    poison: tuple[str, ...] = ()
    """Directives of further questions, which kill the model's engine each time, and end as failed."""
    endless: tuple[str, ...] = ()
    """Directives of further questions, to which the model writes for ever, and which end as incomplete."""


@dataclass(frozen=True)
class Outcome:
    """A line of the report."""

    scenario: str
    faults: int
    verdict: Verdict
    retries: Mapping[str, int]
    """How often users sent a request again, by the reason."""


async def play(stage: Stage, scenario: Scenario, seed: int) -> Outcome:
    """Let the users ask while the fault strikes, and look at every question afterwards."""
    rng = random.Random(f"{seed} {scenario.name}")
    beginning = f"{scenario.name} {uuid.UUID(int=rng.getrandbits(128))}"
    ends: dict[str, tuple[str, str | None]] = {
        f"{beginning} poison {number} [[{how}]]": ("failed", "poison") for number, how in enumerate(scenario.poison)
    } | {f"{beginning} endless {number} [[{how}]]": ("incomplete", None) for number, how in enumerate(scenario.endless)}
    texts = [
        f"{beginning} {n - (n % _SHARED == 1)} [[{scenario.answer}]]" for n in range(scenario.questions - len(ends))
    ]
    texts[10:10] = sorted(ends)
    await stage.until_healthy()
    crowd = Crowd(lambda: stage.api, texts, scenario.at_once, scenario.pace, rng)
    windows: list[Window] = []
    fault = scenario.fault()
    await fault.prepare(stage)
    try:
        async with asyncio.timeout(scenario.seconds), asyncio.TaskGroup() as parts:
            parts.create_task(crowd.ask_all())
            for moment in _moments(scenario, rng):
                await crowd.until_accepted(moment)
                await asyncio.sleep(rng.uniform(0, 1))
                begin = time.time()
                await fault.inject(stage, rng)
                windows.append(Window(begin, time.time()))
    except TimeoutError:
        crowd.surprises[f"{scenario.seconds:g} s passed with {crowd.in_flight} questions in flight"] += 1
    else:
        await stage.until_healthy()
    finally:
        await fault.release()
    read_again = await crowd.read_all()
    rows = await audit.rows(stage.database_url, beginning)
    verdict = judge(
        crowd,
        rows,
        read_again,
        stage.model.asked(),
        [*windows, *(Window(*death) for death in fault.deaths)],
        ends=ends,
        loses_generations=scenario.loses_generations,
    )
    return Outcome(scenario.name, len(windows) + len(ends), verdict, crowd.retries)


def _moments(scenario: Scenario, rng: random.Random) -> list[int]:
    """How many questions are accepted when the fault strikes: once in each of as many equal parts of the time."""
    part = (_LAST - _FIRST) / max(scenario.times, 1)
    return [int(scenario.questions * (_FIRST + part * (number + rng.random()))) for number in range(scenario.times)]
