"""The rows that are measured on the mesh with its defaults, with the bar of each figure.

The direct call and the mesh take turns (A B A B), because a shared machine's speed drifts; figures are medians of them.
"""

from collections.abc import Iterator
from statistics import median

from benchmarks import cpu
from benchmarks.figures import Figure
from benchmarks.measured import Measured, added, middle, percentile
from benchmarks.model_server import Profile
from benchmarks.stage import Stage

TURNS = 2


def model_server(stage: Stage) -> Iterator[Figure]:
    """The fake model server's own ceiling: ten times what the bars need is 85,000 tokens/s."""
    row, tokens = "fake model server", 256
    for pace, delay in (("at the pace of the long answers", 0.03), ("at full speed", 0.002)):
        stage.profile(Profile(first=0.1, tokens=tokens, delay=delay, batch=256))
        seen = stage.put("direct", 512, at_once=256, tokens=tokens)
        each = seen.cpu["fake model"] / seen.count / tokens
        yield Figure(row, f"CPU a token {pace}", each * 1e6, "µs")
    yield Figure(row, "its ceiling on one core", 1 / each, "tokens/s", 85_000, at_most=False)


def one_in_flight(stage: Stage) -> Iterator[Figure]:
    """1 in flight, 50 ms + 32 x 5 ms."""
    yield from _latency(stage, "1 in flight", at_once=1, count=30, at_median=12, first=8)


def sixteen_in_flight(stage: Stage) -> Iterator[Figure]:
    """16 in flight, 50 ms + 32 x 5 ms."""
    yield from _latency(stage, "16 in flight", at_once=16, count=320, at_median=20, at_p99=60, first=25)


def many_in_flight(stage: Stage) -> Iterator[Figure]:
    """256 in flight, 2,000 distinct questions, 100 ms + 32 x 20 ms."""
    row = "256 in flight"
    stage.profile(Profile(first=0.1, tokens=32, delay=0.02, batch=256))
    direct, mesh = _turns(stage, "wait", 2_000, 32)
    yield _of_direct(row, direct, mesh, 0.45)
    yield Figure(row, "CPU a question", mesh.mesh_cpu_each, "ms", 8, cpu=mesh.cpu_each)


def long_answers_waited(stage: Stage) -> Iterator[Figure]:
    """256 in flight, 256 tokens x 30 ms, readers waiting."""
    yield from _long_answers(stage, "long answers, waiting", "wait", of_direct=0.97, a_token=0.15)


def long_answers_streamed(stage: Stage) -> Iterator[Figure]:
    """The same with an SSE reader on every answer."""
    yield from _long_answers(stage, "long answers, streaming", "stream", of_direct=0.95, a_token=0.25)


def same_texts(stage: Stage) -> Iterator[Figure]:
    """2,000 asks over 50 texts."""
    row = "2,000 asks over 50 texts"
    turns, generations = [], []
    for _ in range(TURNS):
        stage.profile(Profile())
        turns.append(stage.put("wait", 2_000, at_once=256, texts=50))
        generations.append(stage.stats()["requests"])
    yield Figure(row, "generations", max(generations), bar=50)
    seen = middle(turns)
    yield Figure(row, "rate", seen.rate, "answers/s", 500, at_most=False, cpu=seen.cpu_each)


def polling(stage: Stage) -> Iterator[Figure]:
    """A poll of a running and of a finished answer; 2,000 readers waiting at once."""
    stage.profile(Profile())
    stage.put("wait", 1)
    finished = stage.run("SELECT max(id) FROM questions")
    yield _poll(stage, "poll of a finished answer", finished)
    # Two thousand wait for the first token of an answer that takes 20 s.
    stage.profile(Profile(first=20, delay=0))
    stage.put("submit", 1)
    running = stage.run("SELECT max(id) FROM questions")
    yield _poll(stage, "poll of a running answer", running)
    held = stage.put("hold", 2_000, at_once=2_000, question_ids=[running])
    row = "2,000 readers waiting at once"
    yield Figure(row, "served by one process", held.count, bar=2_000, at_most=False)
    yield Figure(row, "CPU a reader", held.mesh_cpu_each, "ms", cpu=held.cpu_each)


def memory(stage: Stage) -> Iterator[Figure]:
    """The largest process of each kind, with 512 answers in flight."""
    stage.profile(Profile(first=0.1, tokens=256, delay=0.02, batch=512))
    stage.put("wait", 1_024, at_once=512, tokens=256)
    used = stage.megabytes()
    for name, bar in (("api_service", 150), ("llm_service", 150), ("worker_service", 200)):
        yield Figure("memory after 512 in flight", name, used[name], "MB", bar)


def _latency(
    stage: Stage, row: str, *, at_once: int, count: int, at_median: float, first: float, at_p99: float | None = None
) -> Iterator[Figure]:
    stage.profile(Profile(first=0.05, tokens=32, delay=0.005))
    stage.put("wait", at_once, at_once=at_once)  # connections, plans and caches are warm after this
    turns = [[stage.put(kind, count, at_once=at_once) for kind in ("direct", "wait", "stream")] for _ in range(TURNS)]
    direct, waited, streamed = (middle(loads) for loads in zip(*turns, strict=True))
    detail = f"direct {median(direct.latencies) * 1e3:.1f} ms"
    yield Figure(
        row,
        "added at the median",
        added(waited.latencies, direct.latencies),
        "ms",
        at_median,
        detail=detail,
        cpu=waited.cpu_each,
    )
    if at_p99:
        slowest = percentile(waited.latencies, 99) - percentile(direct.latencies, 99)
        yield Figure(row, "added at p99", slowest * 1e3, "ms", at_p99)
    detail = f"direct {median(direct.first_tokens) * 1e3:.1f} ms"
    to_first = added(streamed.first_tokens, direct.first_tokens)
    yield Figure(row, "added to the first token", to_first, "ms", first, detail=detail, cpu=streamed.cpu_each)


def _long_answers(stage: Stage, row: str, kind: str, *, of_direct: float, a_token: float) -> Iterator[Figure]:
    tokens = 256
    stage.profile(Profile(first=0.1, tokens=tokens, delay=0.03, batch=256))
    direct, mesh = _turns(stage, kind, 512, tokens)
    yield _of_direct(row, direct, mesh, of_direct)
    yield Figure(row, "CPU a token", mesh.mesh_cpu_each / tokens, "ms", a_token, cpu=mesh.cpu_each)
    cores = cpu.of_mesh(mesh.cpu) / mesh.seconds
    yield Figure(row, "cores used by the mesh", cores)


def _turns(stage: Stage, kind: str, count: int, tokens: int) -> tuple[Measured, Measured]:
    direct, mesh = [], []
    for _ in range(TURNS):
        direct.append(stage.put("direct", count, at_once=256, tokens=tokens))
        mesh.append(stage.put(kind, count, at_once=256, tokens=tokens))
    return middle(direct), middle(mesh)


def _of_direct(row: str, direct: Measured, mesh: Measured, bar: float) -> Figure:
    detail = f"{mesh.rate:.0f} of {direct.rate:.0f} answers/s"
    return Figure(row, "rate, of the direct rate", mesh.rate / direct.rate, "", bar, at_most=False, detail=detail)


def _poll(stage: Stage, row: str, question_id: int) -> Figure:
    seen = stage.put("poll", 3_000, at_once=16, question_ids=[question_id])
    return Figure(row, "CPU a poll", seen.mesh_cpu_each, "ms", 0.7, cpu=seen.cpu_each)
