"""What is measured, row by row, with the bar of each figure.

The direct call and the mesh take turns (A B A B), because a shared machine's speed drifts; figures are medians of them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean, median

from benchmarks.model_server import Profile
from benchmarks.stage import Measured, Stage

TURNS = 2


@dataclass(frozen=True)
class Figure:
    """One measured figure and what it must reach. ``at_most``: otherwise at least."""

    row: str
    what: str
    value: float
    unit: str = ""
    bar: float | None = None
    at_most: bool = True
    detail: str = ""

    @property
    def is_met(self) -> bool:
        """Whether the bar is reached; a figure without a bar only tells."""
        return self.bar is None or (self.value <= self.bar if self.at_most else self.value >= self.bar)


Row = Callable[[Stage], Iterator[Figure]]


def model_server(stage: Stage) -> Iterator[Figure]:
    """What a token costs the fake model server: its ceiling must be ten times what the bars need, 85,000 tokens/s."""
    stage.profile(Profile(first=0.1, tokens=256, delay=0.03, batch=256))
    seen = stage.put("direct", 512, at_once=256, tokens=256)
    yield Figure("fake model server", "CPU a token", seen.cpu["fake model"] / 512 / 256 * 1e6, "µs", 11.7)


def one_in_flight(stage: Stage) -> Iterator[Figure]:
    """1 in flight, 50 ms + 32 x 5 ms."""
    yield from _latency(stage, "1 in flight", at_once=1, count=30, added=12, first=8)


def sixteen_in_flight(stage: Stage) -> Iterator[Figure]:
    """16 in flight, 50 ms + 32 x 5 ms."""
    yield from _latency(stage, "16 in flight", at_once=16, count=320, added=20, p99=60, first=25)


def many_in_flight(stage: Stage) -> Iterator[Figure]:
    """256 in flight, 2,000 distinct questions, 100 ms + 32 x 20 ms."""
    row = "256 in flight"
    stage.profile(Profile(first=0.1, tokens=32, delay=0.02, batch=256))
    direct, mesh = _turns(stage, "wait", 2_000, 256, 32)
    yield _of_direct(row, direct, mesh, 0.45)
    yield _cpu_each(row, mesh, 8)


def long_answers_waited(stage: Stage) -> Iterator[Figure]:
    """256 in flight, 256 tokens x 30 ms, readers waiting."""
    yield from _long_answers(stage, "long answers, waiting", "wait", of_direct=0.97, a_token=0.15)


def long_answers_streamed(stage: Stage) -> Iterator[Figure]:
    """The same with an SSE reader on every answer."""
    yield from _long_answers(stage, "long answers, streaming", "stream", of_direct=0.95, a_token=0.25)


def same_texts(stage: Stage) -> Iterator[Figure]:
    """2,000 asks over 50 texts."""
    row = "2,000 asks over 50 texts"
    stage.profile(Profile())
    seen = stage.put("wait", 2_000, at_once=256, texts=50)
    yield Figure(row, "generations", stage.stats()["requests"], bar=50)
    yield Figure(row, "rate", seen.rate, "answers/s", 500, at_most=False, detail=_shares(seen))


def polling(stage: Stage) -> Iterator[Figure]:
    """A poll of a running and of a finished answer; 2,000 readers waiting at once."""
    stage.profile(Profile())
    stage.put("wait", 1)
    finished = stage.run("SELECT max(id) FROM questions")
    yield _poll(stage, "polling, finished", finished)
    # Two thousand wait for the first token of an answer that takes 20 s.
    stage.profile(Profile(first=20, tokens=32, delay=0))
    stage.put("submit", 1)
    running = stage.run("SELECT max(id) FROM questions")
    yield _poll(stage, "polling, running", running)
    held = stage.put("hold", 2_000, at_once=2_000, question_id=running)
    yield Figure("2,000 readers waiting", "served", held.count, bar=2_000, at_most=False)
    yield Figure(
        "2,000 readers waiting", "CPU each", held.cpu["api_service"] / held.count * 1e3, "ms", detail=_shares(held)
    )


def memory(stage: Stage) -> Iterator[Figure]:
    """The largest process of each kind, with 512 answers in flight."""
    stage.profile(Profile(first=0.1, tokens=256, delay=0.02, batch=512))
    stage.put("wait", 1_024, at_once=512, tokens=256)
    used = stage.megabytes()
    for name, bar in (("api_service", 150), ("llm_service", 150), ("worker_service", 200)):
        yield Figure("memory after 512 in flight", name, used[name], "MB", bar)


def submit_alone(stage: Stage) -> Iterator[Figure]:
    """POST alone, durable and hinted, on one api_service process. The stage's worker holds one answer."""
    row = "submit alone"
    stage.profile(Profile(first=3_600))
    rates = [stage.put("submit", 3_000, at_once=64) for _ in range(TURNS)]
    yield Figure(
        row, "rate", median(one.rate for one in rates), "questions/s", 900, at_most=False, detail=_shares(rates[-1])
    )
    paced = stage.put("submit", 1_500, rate=300)
    yield Figure(row, "p99 at 300/s", paced.percentile_99() * 1e3, "ms", 50)


def long_queue(stage: Stage) -> Iterator[Figure]:
    """Submitting onto 50,000 queued questions, against 50."""
    row = "50,000 queued"
    stage.profile(Profile(first=3_600))
    stage.run("TRUNCATE questions, answers")
    short = stage.put("submit", 2_000, at_once=64)
    memory_before = stage.megabytes()["api_service"]
    stage.put("submit", 48_000, at_once=64)
    long = stage.put("submit", 2_000, at_once=64)
    queued = stage.run("SELECT count(*) FROM answers WHERE state = 'queued'")
    yield Figure(row, "queued", queued, bar=50_000, at_most=False)
    yield Figure(row, "submit rate, of that with 50", long.rate / short.rate, "", 0.85, at_most=False)
    grown = stage.megabytes()["api_service"] / memory_before
    yield Figure(row, "api_service's memory, of that with 50", grown, "", 1.15)


ROWS: dict[str, Row] = {
    row.__name__: row
    for row in (
        model_server,
        one_in_flight,
        sixteen_in_flight,
        many_in_flight,
        long_answers_waited,
        long_answers_streamed,
        same_texts,
        polling,
        memory,
    )
}
"""Measured on the mesh as it is set up by default."""

QUEUEING_ROWS: dict[str, Row] = {row.__name__: row for row in (submit_alone, long_queue)}
"""Measured on a mesh whose one worker holds one answer, so that questions stay queued."""


def _latency(
    stage: Stage, row: str, *, at_once: int, count: int, added: float, first: float, p99: float | None = None
) -> Iterator[Figure]:
    stage.profile(Profile(first=0.05, tokens=32, delay=0.005))
    stage.put("wait", at_once, at_once=at_once)  # connections, plans and caches are warm after this
    direct, waited, streamed = [], [], []
    for _ in range(TURNS):
        direct.append(stage.put("direct", count, at_once=at_once))
        waited.append(stage.put("wait", count, at_once=at_once))
        streamed.append(stage.put("stream", count, at_once=at_once))
    base = median(one.median() for one in direct)
    detail = f"direct {base * 1e3:.1f} ms"
    yield Figure(
        row, "added at the median", (median(one.median() for one in waited) - base) * 1e3, "ms", added, detail=detail
    )
    if p99:
        slowest = median(one.percentile_99() for one in waited) - median(one.percentile_99() for one in direct)
        yield Figure(row, "added at p99", slowest * 1e3, "ms", p99)
    base = median(median(one.first_tokens) for one in direct)
    detail = f"direct {base * 1e3:.1f} ms"
    to_first = median(median(one.first_tokens) for one in streamed) - base
    yield Figure(row, "added to the first token", to_first * 1e3, "ms", first, detail=detail)


def _long_answers(stage: Stage, row: str, kind: str, *, of_direct: float, a_token: float) -> Iterator[Figure]:
    tokens = 256
    stage.profile(Profile(first=0.1, tokens=tokens, delay=0.03, batch=256))
    direct, mesh = _turns(stage, kind, 512, 256, tokens)
    yield _of_direct(row, direct, mesh, of_direct)
    used = mean(one.mesh_cpu / one.count / tokens for one in mesh)
    yield Figure(row, "CPU a token", used * 1e3, "ms", a_token, detail=_shares(mesh[-1]))


def _turns(stage: Stage, kind: str, count: int, at_once: int, tokens: int) -> tuple[list[Measured], list[Measured]]:
    direct, mesh = [], []
    for _ in range(TURNS):
        direct.append(stage.put("direct", count, at_once=at_once, tokens=tokens))
        mesh.append(stage.put(kind, count, at_once=at_once, tokens=tokens))
    return direct, mesh


def _of_direct(row: str, direct: list[Measured], mesh: list[Measured], bar: float) -> Figure:
    ratio = median(one.rate for one in mesh) / median(one.rate for one in direct)
    detail = f"{mesh[-1].rate:.0f} of {direct[-1].rate:.0f} answers/s"
    return Figure(row, "rate, of the direct rate", ratio, "", bar, at_most=False, detail=detail)


def _cpu_each(row: str, mesh: list[Measured], bar: float) -> Figure:
    used = mean(one.mesh_cpu / one.count for one in mesh)
    return Figure(row, "CPU a question", used * 1e3, "ms", bar, detail=_shares(mesh[-1]))


def _poll(stage: Stage, row: str, question_id: int) -> Figure:
    seen = stage.put("poll", 3_000, at_once=16, question_id=question_id)
    return Figure(row, "CPU a poll", seen.mesh_cpu / seen.count * 1e3, "ms", 0.7, detail=_shares(seen))


def _shares(seen: Measured) -> str:
    """CPU milliseconds a request, by process."""
    each = {name: used / seen.count * 1e3 for name, used in seen.cpu.items()} | {
        "load": seen.load_cpu / seen.count * 1e3
    }
    return ", ".join(
        f"{name} {used:.2f}" for name, used in sorted(each.items(), key=lambda one: -one[1]) if used >= 0.01
    )
