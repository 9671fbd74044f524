"""The seed, the length of the run, and the report."""

import random
from pathlib import Path

import pytest

from tests.fuzz.report import Report

_SEED = pytest.StashKey[int]()
_REPORT = pytest.StashKey[Report]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("fuzz", "the fuzzing of what comes in")
    group.addoption(
        "--fuzz-seconds", type=int, help="of each test, at least; without it, a short run that is always the same"
    )
    group.addoption("--fuzz-seed", type=int, help="decides what is sent; printed at the end")
    group.addoption("--fuzz-report", type=Path, help="file that the report is written to, as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_REPORT] = Report()
    seed = config.getoption("fuzz_seed", None)
    if seed is None:
        seed = 1 if config.getoption("fuzz_seconds", None) is None else random.SystemRandom().randrange(1_000_000)
    config.stash[_SEED] = seed


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    report = config.stash[_REPORT]
    if table := report.as_markdown():
        terminalreporter.section(f"what was sent, --fuzz-seed={config.stash[_SEED]}")
        terminalreporter.write(table)
        if (file := config.getoption("fuzz_report", None)) is not None:
            file.write_text(table)


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    """The lines of the report so far."""
    return pytestconfig.stash[_REPORT]


@pytest.fixture(scope="session")
def seconds(pytestconfig: pytest.Config) -> int | None:
    """Of each test, at least; None: a few cases, always the same."""
    given: int | None = pytestconfig.getoption("fuzz_seconds", None)
    return given


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Of everything that is drawn by chance."""
    return pytestconfig.stash[_SEED]
