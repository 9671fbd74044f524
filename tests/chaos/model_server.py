"""The fake model server with a journal that outlives it: ``python -m tests.chaos.model_server --journal FILE``.

Each request leaves a line when it begins and one when it ends. A line is one write, so kill -9 loses none.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self
from urllib.request import Request, urlopen

import orjson
from aiohttp import web

from tests.fakes.model_server import FakeModelServer, Options
from tests.fakes.script import question_of

BEGUN, COMPLETED, BROKEN = "begun", "completed", "broken"


class JournalledModelServer(FakeModelServer):
    """Notes what becomes of each request."""

    def __init__(self, options: Options, journal: Path) -> None:
        super().__init__(options)
        self._file = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._completed: dict[str, int] = defaultdict(int)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        messages = orjson.loads(await request.read())["messages"]
        # The last message of a continuation is the beginning of the answer.
        question = question_of(next(message["content"] for message in reversed(messages) if message["role"] == "user"))
        self._note(BEGUN, question)
        event = BROKEN
        try:
            answer = await super()._completions(request)
            # Nothing runs between the counting of this request and this line.
            if self.of(question).completed > self._completed[question]:
                self._completed[question] += 1
                event = COMPLETED
            return answer
        finally:
            self._note(event, question)

    def _note(self, event: str, question: str) -> None:
        os.write(self._file, orjson.dumps([time.time(), event, question]) + b"\n")


@dataclass
class Asked:
    """What the model server was asked for one question."""

    begun: list[float] = field(default_factory=list)
    """Seconds since 1970."""
    completed: int = 0


class ModelServer:
    """The server as a process that can be killed, frozen and started again at the same address."""

    def __init__(self, folder: Path) -> None:
        self._journal = folder / "model-server.journal"
        self._log = folder / "model-server.log"
        self._process: subprocess.Popen[str] | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Return when it listens."""
        port = self.url.removesuffix("/v1").rpartition(":")[2] or "0"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.model_server", "--port", port, "--journal", str(self._journal)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        assert self.url, self._log.read_text()

    def kill(self) -> None:
        """End it as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._process = None

    @property
    def runs(self) -> bool:
        """Whether its process has not ended."""
        return self._process is not None and self._process.poll() is None

    def freeze(self) -> None:
        """It holds its connections and says nothing more."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def fail(self, fault: str, **how: Any) -> None:
        """What the fake's POST /fake/faults does; an empty name ends it."""
        body = json.dumps({"fault": fault, **how}).encode()
        request = Request(self.url.removesuffix("/v1") + "/fake/faults", body, {"Content-Type": "application/json"})
        with urlopen(request, timeout=30):
            pass

    def asked(self) -> dict[str, Asked]:
        """By question, without its directives: all that was ever asked."""
        asked: dict[str, Asked] = defaultdict(Asked)
        with suppress(FileNotFoundError), self._journal.open("rb") as journal:
            for line in journal:
                at, event, question = orjson.loads(line)
                if event == BEGUN:
                    asked[question].begun.append(at)
                elif event == COMPLETED:
                    asked[question].completed += 1
        return asked


async def _serve(options: Options, journal: Path) -> None:
    async with JournalledModelServer(options, journal) as server:
        sys.stdout.write(server.url + "\n")
        sys.stdout.flush()
        await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--journal", type=Path, required=True)
    arguments = parser.parse_args()
    asyncio.run(_serve(Options(port=arguments.port), arguments.journal))


if __name__ == "__main__":
    main()
