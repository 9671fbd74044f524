"""The whole mesh as `make run` starts it, on free ports and data of its own."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Self

import psutil

STOP_SECONDS = 15


class Mesh:
    """``python -m embedded`` for the length of a ``with`` block, or from ``start`` to ``stop``.

    What it prints stands in ``output``. Every process that it starts is gone afterwards: ``stop`` says which were not.
    """

    def __init__(self, data_dir: Path, settings: Mapping[str, str] | None = None) -> None:
        self.data_dir = data_dir
        ports = {"ASKMESH_PORT": "0", "ASKMESH_GRPC_PORT": "0", "ASKMESH_DATA_DIR": str(data_dir)}
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("ASKMESH_")}
        self._environment |= ports | dict(settings or {})
        self.output: list[str] = []
        self.api = ""
        """URL of the API, without a slash at its end."""
        self.grpc = ""
        """host:port of the first llm_service."""

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        left = self.stop()
        if kind is None:
            assert left == [], f"left running: {left}"

    def start(self) -> None:
        """Return when the mesh says that it is ready."""
        said_before = len(self.output)
        self.supervisor = subprocess.Popen(
            [sys.executable, "-m", "embedded"],
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert self.supervisor.stdout is not None
        for line in self.supervisor.stdout:
            self.output.append(line)
            if "api/answer" in line:  # the last line of the introduction
                break
        else:
            self._end()
            raise AssertionError("the mesh did not start:\n" + "".join(self.output) + self.logs())
        said = "".join(self.output[said_before:])
        self.api = self._find(r"api_service +(http://\S+)", said)
        self.grpc = self._find(r"llm_service +(localhost:\d+)", said)

    def processes(self) -> dict[str, int]:
        """Name and process id of each child, as the supervisor has them on record."""
        recorded = json.loads((self.data_dir / "processes.json").read_text())
        return {entry["name"]: entry["pid"] for entry in recorded}

    def kill_supervisor(self) -> None:
        """What a power cut of the supervisor alone would leave."""
        self.supervisor.kill()
        self._end()

    def kill_everything(self) -> None:
        """What a power cut leaves: the data, and no process."""
        family = self._family()
        self.supervisor.kill()
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._end()

    def stop(self) -> list[str]:
        """Stop as Ctrl-C does; returns the command lines of processes that are still there, and ends them."""
        family = self._family()
        self.supervisor.terminate()
        try:
            self.supervisor.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.supervisor.kill()
            family.append(psutil.Process(self.supervisor.pid))
        self._end()
        left = []
        for process in family:
            with suppress(psutil.NoSuchProcess):
                if process.status() != psutil.STATUS_ZOMBIE:
                    left.append(" ".join(process.cmdline()))
                process.kill()
        return left

    def logs(self) -> str:
        """The last lines of every log, for the message of a failed test."""
        return "".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-3_000:]}\n"
            for log in sorted((self.data_dir / "logs").glob("*.log"))
        )

    def _family(self) -> list[psutil.Process]:
        with suppress(psutil.NoSuchProcess):
            return psutil.Process(self.supervisor.pid).children(recursive=True)
        return []

    def _end(self) -> None:
        self.supervisor.wait()
        assert self.supervisor.stdout is not None
        with self.supervisor.stdout as rest:
            self.output.extend(rest)

    @staticmethod
    def _find(pattern: str, said: str) -> str:
        found = re.search(pattern, said)
        assert found, said
        return found[1]
