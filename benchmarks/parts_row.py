"""The mesh beside its bare parts: what of a figure askmesh takes, and what any design over these libraries would."""

from collections.abc import Iterator
from functools import partial

from benchmarks.figures import Figure
from benchmarks.measured import Measured, added, middle, percentile
from benchmarks.model_server import Profile
from benchmarks.parts import parts
from benchmarks.stage import Stage

_BURSTS = 8
_TURNS = 2


def bare_parts(debian: bool) -> Iterator[Figure]:
    """256 asked at once without a model, 16 in flight, and the long answers, beside the same over bare parts."""
    with Stage(debian=debian) as stage, parts(stage.database_url(), stage.model) as (url, pids):
        stage.also(pids)

        row, turns = "256 asked at once", partial(_turns, stage, url)
        stage.profile(Profile(first=0, tokens=1, delay=0, batch=256))
        _, mesh, bare = turns(_BURSTS, 256, at_once=256, tokens=1)
        for what, seen in (("mesh", mesh), ("bare parts", bare)):
            yield Figure(row, f"until all are answered, {what}", seen.seconds * 1e3, "ms")
            yield _cost(row, what, seen)

        row = "16 in flight"
        stage.profile(Profile(first=0.05, tokens=32, delay=0.005))
        direct, mesh, bare = turns(_TURNS, 320, at_once=16, tokens=32)
        for what, seen in (("mesh", mesh), ("bare parts", bare)):
            yield Figure(row, f"added at the median, {what}", added(seen.latencies, direct.latencies), "ms")
            slowest = percentile(seen.latencies, 99) - percentile(direct.latencies, 99)
            yield Figure(row, f"added at p99, {what}", slowest * 1e3, "ms")
            yield _cost(row, what, seen)

        row = "long answers"
        stage.profile(Profile(first=0.1, tokens=256, delay=0.03, batch=256))
        direct, mesh, bare = turns(_TURNS, 512, at_once=256, tokens=256)
        for what, seen in (("mesh", mesh), ("bare parts", bare)):
            yield Figure(row, f"rate, of the direct rate, {what}", seen.rate / direct.rate)
            yield _cost(row, what, seen)


def _turns(
    stage: Stage, url: str, turns: int, count: int, *, at_once: int, tokens: int
) -> tuple[Measured, Measured, Measured]:
    """The direct call, the mesh and the bare parts in turns, once all are warm."""
    ways: tuple[tuple[str, dict[str, str]], ...] = (("direct", {}), ("wait", {}), ("wait", {"url": url}))
    for kind, where in ways:
        stage.put(kind, at_once, at_once=at_once, tokens=tokens, **where)
    loads = [
        [stage.put(kind, count, at_once=at_once, tokens=tokens, **where) for kind, where in ways] for _ in range(turns)
    ]
    direct, mesh, bare = (middle(one) for one in zip(*loads, strict=True))
    return direct, mesh, bare


def _cost(row: str, what: str, seen: Measured) -> Figure:
    return Figure(row, f"CPU a question, {what}", seen.mesh_cpu_each, "ms", cpu=seen.cpu_each)
