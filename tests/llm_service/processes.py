"""llm_service and model servers as processes of their own."""

import asyncio
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from tests.llm_service.conftest import PATIENCE


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with only these settings of askmesh."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ASKMESH_")}
    return inherited | {f"ASKMESH_{name.upper()}": value for name, value in settings.items()}


@dataclass
class Service:
    """A running ``python -m llm_service``."""

    process: Process
    port: int

    async def stopped(self) -> tuple[int, str]:
        """Wait for the end: exit status and what stood on standard error since it listened."""
        assert self.process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            rest = await self.process.stderr.read()
            return await self.process.wait(), rest.decode()

    def tell(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@asynccontextmanager
async def running(*command: str, **settings: str) -> AsyncIterator[Process]:
    """A Python module as a process, killed at the end if it still runs."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", *command, env=environment(**settings), stdout=PIPE, stderr=PIPE, start_new_session=True
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@asynccontextmanager
async def service_process(model_url: str, **settings: str) -> AsyncIterator[Service]:
    """An llm_service that listens on a free port."""
    async with running("llm_service", model_url=model_url, llm_port="0", **settings) as process:
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while (line := (await process.stderr.readline()).decode()) and "listening" not in line:
                pass
        found = re.search(r"listening on port (\d+)", line)
        assert found, "llm_service does not listen"
        yield Service(process, int(found[1]))


@asynccontextmanager
async def model_process(*command: str) -> AsyncIterator[str]:
    """A model server whose first line on standard output holds its address; yields its URL for clients."""
    async with running(*command) as process:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = (await process.stdout.readline()).decode()
        address = re.search(r"http://[^\s/]+", line)
        assert address, "the model server does not listen"
        yield f"{address[0]}/v1"
