"""One run of the mesh, from the lock on its data to the last process's end."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from embedded.errors import EmbeddedError
from embedded.lock import exclusive
from embedded.mesh import LocalMesh
from embedded.orphans import Register
from embedded.stop_requests import StopRequested, StopRequests
from embedded.supervisor import Supervisor
from foundation.settings import EmbeddedSettings, SettingsError, load

# Orphans got their signal when their supervisor died, or get it now. The start should still take under 15 s.
_ORPHAN_SECONDS = 6


def main() -> int:
    """Run until told to stop; the exit status is 2 for a wrong setting, 1 for anything else that cannot go on."""
    os.umask(0o077)  # questions and answers are private, wherever the data are
    try:
        _run()
    except SettingsError as error:
        print(f"askmesh: {error}", file=sys.stderr)  # noqa: T201
        return 2
    except (EmbeddedError, OSError) as error:
        print(f"askmesh: {error}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


def _run() -> None:
    began = time.monotonic()
    data_dir = load(EmbeddedSettings).data_dir
    with exclusive(data_dir), StopRequests() as requests, ExitStack() as held:
        register = Register(data_dir / "processes.json")
        register.stop_orphans(_ORPHAN_SECONDS, _say)
        mesh = LocalMesh(held)
        supervisor = Supervisor(requests, register, _say)
        for server in mesh.servers:
            held.callback(server.release)
        stores, model = ([server.prepare() for server in servers] for servers in (mesh.stores, mesh.model))
        try:
            with _stopped_at_last(supervisor, data_dir):
                supervisor.launch(stores)
                supervisor.wait()
                # All at once: a service waits for the schema and for what it calls. In turn they would take twice as
                # long.
                supervisor.launch(model, *mesh.services())
                supervisor.run(mesh.migrations())
                supervisor.wait()
                _introduce(mesh, time.monotonic() - began)
                supervisor.watch()
        except StopRequested:
            pass
        except EmbeddedError:
            # llm_service knows its port by another setting than people do: this error names theirs.
            mesh.check_grpc_ports()
            raise


@contextmanager
def _stopped_at_last(supervisor: Supervisor, data_dir: Path) -> Iterator[None]:
    try:
        yield
    finally:
        _say("stopping")
        stopping = time.monotonic()
        supervisor.stop()
        _say(f"stopped after {time.monotonic() - stopping:.1f} s; the data are in {data_dir}")


def _introduce(mesh: LocalMesh, seconds: float) -> None:
    _say(f"\naskmesh is ready after {seconds:.1f} s. Ctrl-C stops it.\n")
    for what, where in mesh.table:
        _say(f"  {what:<16} {where}")
    key = ""
    if mesh.access.require_auth:
        _say("\nIt asks everybody for a key. Make one:\n  KEY=$(.venv/bin/askmesh keys create --tenant me)")
        key = ' -H "Authorization: Bearer $KEY"'
    else:
        _say(
            "\nIt asks nobody on this machine who they are, and serves nobody else."
            " With ASKMESH_REQUIRE_AUTH=true it asks for keys."
        )
    _say(
        f"\nTry it: open {mesh.url} in a browser, or\n"
        f"  curl -s {mesh.url}/api/ask{key} -H 'Content-Type: application/json'"
        """ -d '{"question_text": "What is the capital of France?"}'\n"""
        f"  curl -s {mesh.url}/api/answer/1{key}   # the question_id that came back\n"
    )


def _say(line: str) -> None:
    """Print the line. If nobody reads any more, the mesh must still run, and stop in order."""
    try:
        print(line, flush=True)  # noqa: T201
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
