"""What a killed supervisor left is stopped by the next one, and nothing else is."""

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from embedded.orphans import Register
from embedded.processes import Child
from tests.embedded.programs import IGNORES_SIGTERM, WAITS, program


@pytest.fixture
def children(processes: None, tmp_path: Path) -> Iterator[list[Child]]:
    """A server and a service that ignores SIGTERM."""
    programs = [
        replace(program(tmp_path, "server", WAITS), outlives=True),
        program(tmp_path, "service", IGNORES_SIGTERM),
    ]
    children = [Child(what) for what in programs]
    for child in children:
        while not child.is_ready():
            time.sleep(0.01)
    yield children
    for child in children:
        child.kill()


def test_recorded_processes_are_stopped_and_said_so(tmp_path: Path, children: list[Child]) -> None:
    Register(tmp_path / "processes.json").write(children)
    lines: list[str] = []
    Register(tmp_path / "processes.json").stop_orphans(0.2, lines.append)
    assert all(child.has_ended() for child in children)
    assert [line.split()[0] for line in lines] == ["service", "server"]
    assert not (tmp_path / "processes.json").exists()


def test_a_process_that_got_a_recorded_number_later_is_left_alone(tmp_path: Path, children: list[Child]) -> None:
    path = tmp_path / "processes.json"
    Register(path).write(children)
    entries = json.loads(path.read_text())
    for entry in entries:
        entry["created"] -= 3_600
    path.write_text(json.dumps(entries))
    lines: list[str] = []
    Register(path).stop_orphans(0.2, lines.append)
    assert lines == []
    assert not any(child.has_ended() for child in children)


@pytest.mark.parametrize("content", [None, "", '[{"name": '])
def test_without_a_whole_record_there_is_nothing_to_stop(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "processes.json"
    if content is not None:
        path.write_text(content)
    lines: list[str] = []
    Register(path).stop_orphans(0.2, lines.append)
    assert lines == []
