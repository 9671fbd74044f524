"""Marks come from what a test uses, and a test that uses more than its marks say fails."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CONFTEST = "from tests.conftest import *  # its hooks and fixtures"
TESTS = """
import contextlib, socket, subprocess

import pytest

def bind():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))

def test_nothing(): pass
def test_socket(): bind()
def test_hidden():
    with contextlib.suppress(RuntimeError):
        bind()
def test_process(): subprocess.run(["true"])
def test_by_fixture(loopback): bind()
@pytest.mark.processes
def test_by_hand(): subprocess.run(["true"])
"""


@pytest.mark.processes
@pytest.mark.parametrize(
    ("chosen", "passed", "failed"),
    [
        ("unit", {"nothing"}, {"socket", "hidden", "process"}),
        ("loopback", {"by_fixture"}, set()),
        ("processes", {"by_hand"}, set()),
    ],
)
def test_what_a_test_may_use_is_what_it_is_marked_for(
    tmp_path: Path, chosen: str, passed: set[str], failed: set[str]
) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_it.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-c", str(ROOT / "pyproject.toml"), "-p", "no:cacheprovider", "-rA"]
    done = subprocess.run(
        [*command, "--rootdir", str(tmp_path), "-m", chosen, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    summary = [line.split() for line in done.stdout.splitlines() if line.startswith(("PASSED", "FAILED"))]
    results = {(result, test.partition("::test_")[2]) for result, test, *_ in summary}
    assert results == {("PASSED", name) for name in passed} | {("FAILED", name) for name in failed}, done.stdout
