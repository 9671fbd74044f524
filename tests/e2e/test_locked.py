"""The services' locks: test_make_run.py runs every service with what its own one installs, and no more."""

import os
import subprocess
import sys

import pytest

from tests.e2e.locked import FOLDER

pytestmark = pytest.mark.processes


def finds(service: str, module: str) -> bool:
    done = subprocess.run(
        [sys.executable, "-c", f"import {module}", service],
        env=os.environ | {"PYTHONPATH": str(FOLDER)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 or f"ModuleNotFoundError: No module named '{module}'" in done.stderr, done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("service", ["api_service", "worker_service", "llm_service", "schema.migrations"])
def test_a_service_does_not_find_the_tools_of_the_tests(service: str) -> None:
    assert finds(service, "askmesh_client")
    assert not finds(service, "hypothesis")


def test_each_service_has_a_lock_of_its_own() -> None:
    assert finds("api_service", "fastapi")
    assert not finds("worker_service", "fastapi")
    assert not finds("llm_service", "sqlalchemy")
