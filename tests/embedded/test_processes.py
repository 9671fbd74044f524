"""One child: its session, its log, its end."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from embedded.processes import LOG_BYTES, Child, Program, trim_log
from tests.embedded.programs import program

pytestmark = pytest.mark.processes


@contextmanager
def running(what: Program) -> Iterator[Child]:
    child = Child(what)
    try:
        while not child.is_ready() and not child.has_ended():
            time.sleep(0.01)
        yield child
    finally:
        child.kill()


def test_a_child_leads_a_session_of_its_own(tmp_path: Path) -> None:
    with running(program(tmp_path, "child")) as child:
        assert os.getsid(child.pid) == child.pid != os.getsid(0)


def test_its_output_is_in_its_log_and_its_last_line_is_known(tmp_path: Path) -> None:
    code = "import sys; print('ready', flush=True); print('the cause\\n', file=sys.stderr); sys.exit(3)"
    with running(program(tmp_path, "child", code)) as child:
        child.process.wait()
        assert child.last_log_line() == "the cause"
        assert child.how_it_ended() == "exited with status 3"


def test_the_signal_that_ended_it_is_named(tmp_path: Path) -> None:
    with running(program(tmp_path, "child")) as child:
        child.ask_to_stop()
        child.process.wait()
        assert child.how_it_ended() == "was ended by SIGTERM"


def test_killing_it_ends_what_it_started_too(tmp_path: Path) -> None:
    code = (
        "import subprocess, sys, time; subprocess.Popen(['sleep', '600']); print('ready', flush=True); time.sleep(600)"
    )
    with running(program(tmp_path, "child", code)) as child:
        (grandchild,) = psutil.Process(child.pid).children()
        child.kill()
        _, alive = psutil.wait_procs([grandchild], timeout=60)
        assert alive == []


def test_it_gets_its_environment_and_open_files_and_no_other(tmp_path: Path) -> None:
    given, kept = os.open(tmp_path, os.O_RDONLY), os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, False)
    code = "import os; print(sorted(os.environ), sorted(int(n) for n in os.listdir('/dev/fd'))[3:]); print('ready')"
    try:
        what = replace(program(tmp_path, "child", code), environment={"NAME": "value"}, descriptors=(given,))
        with running(what) as child:
            child.process.wait()
            names, descriptors = (tmp_path / "child.log").read_text().splitlines()[0].split("] ")
            assert "'NAME'" in names
            assert "'PATH'" not in names
            assert str(given) in descriptors
            assert str(kept) not in descriptors.strip("[]").split(", ")
    finally:
        os.close(given)
        os.close(kept)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the next start stops it")
def test_it_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import pathlib, sys, time\n"
        "from embedded.processes import Child\n"
        "from tests.embedded.programs import program\n"
        "child = Child(program(pathlib.Path(sys.argv[1]), 'child'))\n"
        "while not child.is_ready(): time.sleep(0.01)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    command = (sys.executable, "-c", code, str(tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs([child], timeout=60)
    assert alive == []


def test_a_log_that_has_grown_is_put_aside_while_its_writer_goes_on(tmp_path: Path) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * LOG_BYTES)
        trim_log(log)
        assert log.stat().st_size == LOG_BYTES
        writer.write(b"y")
        trim_log(log)
        writer.write(b"z")
    assert log.read_bytes() == b"z"
    assert (tmp_path / "a.log.1").stat().st_size == LOG_BYTES + 1
