"""The real vLLM on this machine's CPU: whether its batch is as full under the mesh as when it is called directly.

How full it was comes from vLLM's own counters: the seconds that its requests were generated for, divided by the seconds
of the load, are the mean of ``vllm:num_requests_running``. That gauge itself is the last step's: while a step reads the
prompts of a whole batch, 0.9 s here, it tells of the step before. Sampled, it gave 12.5 where the counters give 15.9.
"""

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from urllib.request import urlopen

from benchmarks import cpu
from benchmarks.figures import Figure
from benchmarks.measured import Measured, middle
from benchmarks.stage import Stage
from benchmarks.stores import MissingError
from tests.vllm.server import ENVIRONMENT, MODEL, Vllm, started, totals

TURNS = 2
BATCH = 16
_AT_ONCE = 2 * BATCH
_COUNT = 8 * BATCH
_TOKENS = 64
_INSTRUCTIONS = "You write long stories."
_TASK = ": write a long story about a traveller of this name, with many details."


@dataclass(frozen=True)
class Turn:
    """One load, and what vLLM counted meanwhile: each metric's increase."""

    load: Measured
    counted: Mapping[str, float]

    @property
    def running(self) -> float:
        """Requests that vLLM generated for, as a mean over the load."""
        return self.counted["vllm:request_inference_time_seconds_sum"] / self.load.seconds

    @property
    def waiting(self) -> float:
        """Requests in vLLM's own queue, as a mean over the load."""
        return self.counted["vllm:request_queue_time_seconds_sum"] / self.load.seconds

    @property
    def tokens(self) -> float:
        """How many vLLM wrote."""
        return self.counted["vllm:generation_tokens_total"]

    @property
    def tokens_a_second(self) -> float:
        """From the first request of the load to its last answer."""
        return self.tokens / self.load.seconds


def vllm(debian: bool) -> Iterator[Figure]:
    """The real vLLM on this machine's CPU: 32 in flight for its batch of 16, answers of up to 64 tokens."""
    if not (ENVIRONMENT / ".installed").exists():
        raise MissingError(f"vLLM is missing: make {ENVIRONMENT.name}/.installed")
    settings = {"ASKMESH_SYSTEM_PROMPT": _INSTRUCTIONS, "ASKMESH_MAX_OUTPUT_TOKENS": str(_TOKENS)}
    with (
        tempfile.TemporaryDirectory(prefix="askmesh-bench-") as folder,
        started(Path(folder) / "log", at_once=BATCH) as server,
        Stage(settings, debian=debian, model=(server.pid, f"{server.root}/v1")) as stage,
    ):
        for kind in ("direct", "wait"):
            _put(stage, server, kind, BATCH)  # connections, plans and caches are warm after this
        turns = [[_put(stage, server, kind, _COUNT) for kind in ("direct", "wait")] for _ in range(TURNS)]
        yield from compared(*zip(*turns, strict=True))


def compared(direct: Sequence[Turn], mesh: Sequence[Turn]) -> Iterator[Figure]:
    """How full the batch was and how fast vLLM wrote, each way."""
    row = "the real vLLM"
    ways = {"called directly": direct, "through the mesh": mesh}
    full = [median(turn.running for turn in turns) for turns in ways.values()]
    for (way, turns), running in zip(ways.items(), full, strict=True):
        waiting = f"and {median(turn.waiting for turn in turns):.1f} waiting in vLLM"
        yield Figure(row, f"running of {BATCH}, {way}", running, detail=waiting)
    yield Figure(row, "running, of the direct count", full[1] / full[0])
    speeds = [median(turn.tokens_a_second for turn in turns) for turns in ways.values()]
    for (way, turns), speed in zip(ways.items(), speeds, strict=True):
        yield Figure(row, f"tokens/s, {way}", speed, cpu=middle([turn.load for turn in turns]).cpu_each)
    shared = "the mesh takes part of the cores that vLLM computes on; of a GPU it takes nothing"
    yield Figure(row, "tokens/s, of the direct rate", speeds[1] / speeds[0], detail=shared)
    each = median(cpu.of_mesh(turn.load.cpu) / turn.tokens for turn in mesh)
    yield Figure(row, "CPU a token", each * 1e3, "ms")


def _put(stage: Stage, server: Vllm, kind: str, count: int) -> Turn:
    # The same request as the mesh's, but for the question.
    messages = [{"role": "system", "content": _INSTRUCTIONS}]
    fields = {"model": MODEL, "messages": messages, "temperature": 0, "max_tokens": _TOKENS}
    before = _metrics(server)
    load = stage.put(kind, count, at_once=_AT_ONCE, tokens=0, task=_TASK, fields=fields)
    counted = {name: value - before.get(name, 0) for name, value in _metrics(server).items()}
    assert counted["vllm:e2e_request_latency_seconds_count"] == count, f"{kind}: vLLM did not write each answer once"
    assert not counted["vllm:prefix_cache_hits_total"], f"{kind}: tokens of prompts came from vLLM's cache"
    return Turn(load, counted)


def _metrics(server: Vllm) -> dict[str, float]:
    with urlopen(f"{server.root}/metrics", timeout=10) as reply:
        return totals(reply.read().decode())
