"""``python -m worker_service`` as a program, before it is one."""

import subprocess
import sys

import pytest

_LOOKS_WHEN_GRPC_IS_IMPORTED = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == "grpc":
            print(os.environ.get("GRPC_EXPERIMENTS"))

sys.meta_path.insert(0, Finder())
import worker_service.__main__
"""


@pytest.mark.processes
def test_grpc_finds_its_experiments_set_when_it_is_imported() -> None:
    """Later it does not look: set in main(), as once, they had no effect."""
    seen = subprocess.run(
        [sys.executable, "-c", _LOOKS_WHEN_GRPC_IS_IMPORTED], capture_output=True, text=True, timeout=60, check=True
    )

    assert seen.stdout.splitlines() == ["-event_engine_client"]
