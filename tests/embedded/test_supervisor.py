"""Starting in order, starting again, stopping in the opposite order."""

import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedded.errors import EmbeddedError
from embedded.orphans import Register
from embedded.processes import Program
from embedded.stop_requests import StopRequested, StopRequests
from embedded.supervisor import Supervisor
from tests.embedded.programs import IGNORES_SIGTERM, WAITS, program


class SupervisedPrograms:
    """A supervisor and what it said. ``when`` acts on a line as soon as it is said."""

    def __init__(self, requests: StopRequests, folder: Path) -> None:
        self.said: list[str] = []
        self.lines: list[str] = []
        """What was said, without padding and figures."""
        self.supervisor = Supervisor(requests, Register(folder / "processes.json"), self._say)
        self._reactions: list[tuple[str, Callable[[], None]]] = []

    def when(self, pattern: str, react: Callable[[], None]) -> None:
        self._reactions.append((pattern, react))

    def _say(self, line: str) -> None:
        self.said.append(line)
        self.lines.append(re.sub(r"[0-9.]+ s$", "N s", re.sub(r"  +", " ", line)))
        for pattern, react in self._reactions:
            if re.search(pattern, line):
                react()


@pytest.fixture
def mesh(processes: None, tmp_path: Path) -> Iterator[SupervisedPrograms]:
    with StopRequests() as requests:
        mesh = SupervisedPrograms(requests, tmp_path)
        yield mesh
        mesh.supervisor.stop()


def start(mesh: SupervisedPrograms, programs: list[Program]) -> None:
    mesh.supervisor.launch(programs)
    mesh.supervisor.wait()


def request_stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def ends_its_later_starts(starts: Path) -> str:
    """Code that lives only when it runs for the first time."""
    return (
        "import pathlib, sys\n"
        f"starts = pathlib.Path({str(starts)!r})\n"
        "if starts.exists(): sys.exit(1)\n"
        "starts.touch()\n"
        f"{WAITS}"
    )


def at_end(order: Path, name: str) -> str:
    """Code that notes its name in ``order`` when it is told to stop."""
    return (
        "import signal\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "print('ready', flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        f"print({name!r}, file=open({str(order)!r}, 'a'))\n"
    )


def test_a_tier_is_started_together_and_waited_for(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    start(mesh, [program(tmp_path, "a"), program(tmp_path, "b")])
    assert sorted(mesh.lines) == ["a ready after N s", "b ready after N s"]


def test_everything_stops_in_the_opposite_order(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    order = tmp_path / "order"
    for name in ("database", "broker", "model"):
        start(mesh, [replace(program(tmp_path, name, at_end(order, name)), outlives=True)])
    for name in ("llm", "worker", "api"):
        start(mesh, [program(tmp_path, name, at_end(order, name))])
    mesh.supervisor.stop()
    assert order.read_text().split() == ["api", "worker", "llm", "model", "broker", "database"]
    assert not (tmp_path / "processes.json").exists()


def test_a_child_that_ends_at_the_start_is_the_reason_not_to_start(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    code = "import sys; sys.exit('ASKMESH_X: must be a number')"
    with pytest.raises(EmbeddedError, match=r"^a exited with status 1: ASKMESH_X: must be a number \(/.*/a.log\)$"):
        start(mesh, [program(tmp_path, "a", code), program(tmp_path, "b")])


def test_a_child_that_is_never_ready_is_the_reason_not_to_start(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    late = replace(program(tmp_path, "a", "import time; time.sleep(600)"), start_seconds=0.1)
    with pytest.raises(EmbeddedError, match=r"^a is not ready after 0.1 s: \(nothing\)"):
        start(mesh, [late])


def test_a_stop_request_while_starting_is_heeded(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    mesh.when("^a .* ready", request_stop)
    with pytest.raises(StopRequested):
        start(mesh, [program(tmp_path, "a"), program(tmp_path, "b", "import time; time.sleep(600)")])


def test_a_program_is_run_to_its_end(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    mesh.supervisor.run(program(tmp_path, "a", f"open({str(tmp_path / 'done')!r}, 'w')"))
    assert (tmp_path / "done").exists()
    with pytest.raises(EmbeddedError, match=r"^b exited with status 1: no way \(/.*/b.log\)$"):
        mesh.supervisor.run(program(tmp_path, "b", "import sys; sys.exit('no way')"))


def kill_child_of(tmp_path: Path) -> None:
    (entry,) = json.loads((tmp_path / "processes.json").read_text())
    os.kill(entry["pid"], signal.SIGKILL)


def test_a_child_that_dies_is_started_again_and_said_so(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    mesh.when("^a .* ready after", lambda: kill_child_of(tmp_path))
    mesh.when("^a .* ready again", request_stop)
    start(mesh, [program(tmp_path, "a")])
    mesh.supervisor.watch()
    assert mesh.lines == [
        "a ready after N s",
        "a was ended by SIGKILL: starting it again in N s",
        "a ready again after N s",
    ]


def test_each_restart_in_a_row_waits_longer(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    delays: list[str] = []
    mesh.when("^a .* ready after", lambda: kill_child_of(tmp_path))
    mesh.when("starting it again", lambda: delays.append(mesh.said[-1].rpartition(" in ")[2]))
    mesh.when("starting it again in 2 s", request_stop)
    start(mesh, [program(tmp_path, "a", ends_its_later_starts(tmp_path / "started"))])
    mesh.supervisor.watch()
    assert delays == ["0.5 s", "1 s", "2 s"]


def test_a_child_that_will_not_stop_is_killed(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    start(mesh, [replace(program(tmp_path, "a", IGNORES_SIGTERM), stop_seconds=0.1)])
    mesh.supervisor.stop()
    assert mesh.lines[1:] == ["a did not stop in time: killed"]


def test_a_further_stop_request_ends_services_at_once(mesh: SupervisedPrograms, tmp_path: Path) -> None:
    start(mesh, [program(tmp_path, "a", IGNORES_SIGTERM)])
    impatience = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGTERM))
    impatience.start()
    mesh.supervisor.stop()
    impatience.join()
    assert mesh.lines[1:] == ["a did not stop in time: killed"]
