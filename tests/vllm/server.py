"""The real vLLM on the CPU, as a process."""

import asyncio
import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import aiohttp

from embedded.ports import HOST, free_port

MODEL = "SmolLM2-135M-Instruct"
CONTEXT = 2_048
AT_ONCE = 64
QUEUED = 80
"""Requests that vLLM takes up at most, generated for or waiting; beyond that it refuses."""
ENVIRONMENT = Path(__file__).parents[2] / ".venv-vllm"
_START_SECONDS = 300
_STOP_SECONDS = 60
_SAMPLE = re.compile(r"([a-zA-Z_:][\w:]*)(?:\{.*\})? (\S+)")


@dataclass
class Vllm:
    """A running vLLM."""

    root: str
    """Its address, without /v1."""
    pid: int = 0
    """Of its API server; its engine is a child."""
    ready_seconds: float = 0
    """How long it took to start."""

    async def requests(self) -> tuple[int, int]:
        """How many requests it generates for now, and how many wait in its queue."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.root}/metrics") as response:
            now = totals(await response.text())
        return int(now["vllm:num_requests_running"]), int(now["vllm:num_requests_waiting"])

    async def until_running(self, wanted: int) -> float:
        """Wait until it generates for so many, with none waiting; the seconds that it took."""
        began = time.monotonic()
        async with asyncio.timeout(60):
            while await self.requests() != (wanted, 0):
                await asyncio.sleep(0.02)
        return time.monotonic() - began


def totals(metrics: str) -> dict[str, float]:
    """Each metric of Prometheus's text format, summed over its labels."""
    sums: dict[str, float] = defaultdict(float)
    for line in metrics.splitlines():
        if sample := _SAMPLE.fullmatch(line):
            sums[sample[1]] += float(sample[2])
    return dict(sums)


@contextmanager
def started(log: Path, port: int = 0, *, at_once: int = AT_ONCE) -> Iterator[Vllm]:
    """A vLLM on this port, or a free one, which is gone afterwards with all its processes.

    It generates for ``at_once`` requests at a time.
    """
    root = f"http://{HOST}:{(port := port or free_port())}"
    command: list[str | Path] = [ENVIRONMENT / "bin/python", "-m", "vllm.entrypoints.openai.api_server", "--host", HOST]
    command += ["--port", str(port), "--model", ENVIRONMENT / MODEL, "--served-model-name", MODEL]
    # Eager: nothing to compile, so it is ready in 40 s instead of minutes.
    command += ["--enforce-eager", "--max-model-len", str(CONTEXT), "--max-num-seqs", str(at_once)]
    command += ["--max-num-queued-reqs", str(QUEUED), "--enable-prompt-tokens-details"]
    began = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ
            | {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            while not _answers(f"{root}/health"):
                assert process.poll() is None, f"vLLM exited with {process.returncode}:\n{log.read_text()[-4_000:]}"
                assert time.monotonic() < began + _START_SECONDS, f"vLLM is not ready:\n{log.read_text()[-4_000:]}"
                time.sleep(0.2)
            yield Vllm(root, process.pid, time.monotonic() - began)
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):  # its workers outlive an engine that was killed
                os.killpg(process.pid, signal.SIGKILL)


def _answers(url: str) -> bool:
    try:
        with urlopen(url, timeout=1) as response:
            return bool(response.status == 200)
    except (URLError, OSError):
        return False
