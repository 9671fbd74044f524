"""The seed, the stages, and the report."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.report import as_markdown
from tests.chaos.scenarios import Outcome
from tests.chaos.stage import Setup, Stage

_SEED = pytest.StashKey[int]()
_OUTCOMES = pytest.StashKey[list[Outcome]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("chaos", "the fault suite")
    group.addoption("--chaos-seed", type=int, help="decides when faults strike, and whom; printed at the end")
    group.addoption("--chaos-report", type=Path, help="file that the report is written to, as Markdown")


def pytest_configure(config: pytest.Config) -> None:
    seed = config.getoption("chaos_seed", None)
    config.stash[_SEED] = random.SystemRandom().randrange(1_000_000) if seed is None else seed
    config.stash[_OUTCOMES] = []


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if outcomes := config.stash[_OUTCOMES]:
        table = as_markdown(outcomes)
        terminalreporter.section(f"fault suite, --chaos-seed={config.stash[_SEED]}")
        terminalreporter.write(table)
        if (report := config.getoption("chaos_report", None)) is not None:
            report.write_text(table)


@pytest.fixture(scope="module")
def stage(processes: None, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The stage of the setup that the test is parametrised with; scenarios with the same setup share it."""
    setup: Setup = request.param
    with Stage(setup, tmp_path_factory.mktemp("chaos")) as stage:
        yield stage


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """Of everything that the scenarios draw by chance."""
    return pytestconfig.stash[_SEED]


@pytest.fixture(scope="session")
def outcomes(pytestconfig: pytest.Config) -> list[Outcome]:
    """The lines of the report so far."""
    return pytestconfig.stash[_OUTCOMES]
