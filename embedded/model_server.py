"""The model server's process: ``python -m embedded.model_server --port PORT --name NAME --file WEIGHTS``.

``make run`` starts it, and so does the image of docker-compose.yml's CPU profile, with ``--host`` and ``--threads``.
"""

import os
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

from xllamacpp import CommonParams, Server  # type: ignore[import-untyped]

from embedded.ports import HOST

# 8 generations at once give nearly the throughput of 32 (204 and 223 tokens/s on 2 idle cores) with half the memory.
SLOTS = 8
# Half a gigabyte in all. 8,000 characters of English are about 1,900 tokens. The server refuses a longer prompt with
# status 400 and the type exceed_context_size_error; the other slots go on.
SLOT_TOKENS = 2_048
# One core is left to the services, because the model's threads wait for one another at every step: on 2 busy cores one
# thread gives 63 tokens/s and two give 11 for five times the CPU time. (On 2 idle ones two would give 204.)
# A model of 135 million parameters gains nothing from more than 8.
MAX_THREADS = 8


def main() -> None:
    parser = ArgumentParser(prog="python -m embedded.model_server")
    parser.add_argument("--host", default=HOST)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=max(1, min(MAX_THREADS, _cores() - 1)))
    arguments = parser.parse_args()

    parameters = CommonParams()
    parameters.model.path = str(arguments.file)
    parameters.model_alias = {arguments.name}
    parameters.hostnames = [arguments.host]
    parameters.port = arguments.port
    parameters.n_parallel = SLOTS
    parameters.n_ctx = SLOTS * SLOT_TOKENS
    parameters.cpuparams.n_threads = arguments.threads
    parameters.endpoint_metrics = True
    parameters.endpoint_slots = False  # it would show every prompt to whoever is on this machine
    parameters.ui = False
    parameters.cors_origins = ""  # no web page may call it
    parameters.cache_ram_mib = 0  # each slot keeps its last prompt; more of them would take up to 8 GB
    parameters.verbosity = 1  # errors only
    server = Server(parameters)
    print(f"{arguments.name} at {server.listening_address}", flush=True)  # noqa: T201

    parent = os.getppid()
    while os.getppid() == parent:  # the server works in threads of its own
        time.sleep(1)


def _cores() -> int:
    """The cores that this process may use, if the system says. It does not know a container's limit of CPU time."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


if __name__ == "__main__":
    main()
